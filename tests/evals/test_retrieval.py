"""Retrieval: recall against plain statements of it, over a stand-in model whose embeddings and logits are given."""

import json
import types

import jax
import numpy as np
import pytest

from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.evals import recall, table
from instructblip_jax.evals.judge import judged
from instructblip_jax.evals.retrieval import retrieve
from instructblip_jax.evals.suite import eval_spec
from instructblip_jax.mesh import make_mesh

COUNTS = (5, 1, 7, 2, 3, 5, 4)
"""Texts of each picture."""


class StandIn:
    """A model that compares: a picture is its number, a text its number; what they are alike is in two tables."""

    directory = "stand-in"

    def __init__(self, similar, logits, adds):
        self.similar, self.logits = similar, logits
        self.config = types.SimpleNamespace(match_adds_similarity=adds)
        self.mesh = make_mesh(devices=jax.devices()[:1])
        self.encoded, self.embedded = [], []

    def has(self, method):
        return method == "embed_media"

    def encode(self, batch, own, rows):
        self.encoded.append(batch["picture"].tolist())
        return batch["picture"]

    def take(self, media, place):
        return media[place]

    def embed_media(self, media):
        return np.eye(len(self.similar), dtype=np.float32)[media]

    def embed_texts(self, batch):
        self.embedded.append(batch["input_ids"][:, 0].tolist())
        return self.similar.T[batch["input_ids"][:, 0]]

    def match(self, media, batch):
        texts = batch["input_ids"][:, 0]
        return np.stack([0 * texts, self.logits[media, texts]], axis=1)


class Processor:
    def caption_row(self, text, *, clean):
        assert clean
        return np.array([int(text)])

    def lengths(self, row):
        return 1, 1

    def token_limit(self, *, training):
        return 30

    def batch(self, rows, length, training):
        return {"input_ids": np.stack([row["input_ids"] for row in rows])}

    def media(self, media, name, rng=None):
        return {"picture": np.array(int(media[0].data))}

    def stack(self, rows):
        return {"picture": np.stack([row["picture"] for row in rows])}


def records():
    found, first = [], 0
    for n, count in enumerate(COUNTS):
        texts = tuple(str(first + k) for k in range(count))
        first += count
        medium = Medium(IMAGE, str(n).encode())
        found.append(Record(f"set/test/{n}", "set", "test", "caption", (medium,), {}, texts[:1], references=texts))
    return found


OWNER = np.repeat(np.arange(len(COUNTS)), COUNTS)


def plain(scores, candidates, similar):
    """The recalls by their definition: candidates of each row keep their score, all others are behind them."""
    out = {}
    for way, one in (("TR", 0), ("IR", 1)):
        s, rank_by = (scores, similar) if one == 0 else (scores.T, similar.T)
        hits = {1: [], 5: [], 10: []}
        for row in range(len(s)):
            chosen = sorted(range(s.shape[1]), key=lambda c: (-rank_by[row, c], c))[:candidates]
            order = sorted(range(s.shape[1]), key=lambda c: (-s[row, c] if c in chosen else np.inf, c))
            own = np.flatnonzero(row == OWNER) if one == 0 else [OWNER[row]]
            best = min(order.index(c) for c in own)
            for k in hits:
                hits[k].append(best < k)
        out |= {f"{way}@{k}": np.mean(found) for k, found in hits.items()}
    return out


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("candidates", [0, 3, 100])
def test_recall_is_the_plain_one(adds, candidates):
    rng = np.random.default_rng(3)
    # Few levels, so that there are ties.
    similar = rng.integers(0, 5, (len(COUNTS), sum(COUNTS))).astype(np.float32) / 4
    similar[OWNER, np.arange(len(OWNER))] += 0.25
    logits = (rng.integers(0, 9, similar.shape) / 2).astype(np.float32)
    model = StandIn(similar, logits, adds)
    lines = [json.loads(x) for x in retrieve(model, Processor(), records(), batch_size=4, candidates=candidates)]
    assert [line["uid"] for line in lines] == [record.uid for record in records()]
    by_similarity = plain(similar, similar.size, similar)
    assert recall.recalls(lines, 0) == pytest.approx(by_similarity)
    want = by_similarity
    if candidates:
        want = plain(logits + similar if adds else logits, candidates, similar)
        assert recall.recalls(lines, 1) == pytest.approx(want)
        assert want != by_similarity
    result = judged("held_out", eval_spec("set", "test", 8, {"mode": "retrieval"}), lines, 50.0)
    assert result.value == pytest.approx(np.mean(list(want.values())))
    assert result.interval[0] < result.value < result.interval[1]
    assert (result.metric, result.count, result.paper, result.details["texts"]) == ("recall", 7, 0.5, sum(COUNTS))
    shown = table.recalls({"set": result}, {"set": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)})
    assert ("ranked again" in shown) == bool(candidates)
    assert "| set | paper | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 6.0 | 3.5 |" in shown
    # Every picture is encoded once for its embedding, and once for matching; every text is embedded once.
    seen = [n for part in model.encoded for n in dict.fromkeys(part)]
    assert seen.count(6) == (2 if candidates else 1)
    assert sorted({n for part in model.embedded for n in part}) == list(range(sum(COUNTS)))


def test_chance_is_that_of_random_orders():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        model = StandIn(rng.random((len(COUNTS), sum(COUNTS)), np.float32), None, False)
        lines = [json.loads(x) for x in retrieve(model, Processor(), records(), batch_size=8, candidates=0)]
        found.append(np.mean(list(recall.recalls(lines, 0).values())))
    result = recall.result("held_out", "test", lines, None, ())
    assert np.mean(found) == pytest.approx(result.details["chance"], abs=0.03)


def test_a_set_without_texts_or_with_several_pictures_is_refused():
    record = records()[0]
    two = Record("set/test/x", "set", "test", "caption", record.media * 2, {}, ("1",))
    with pytest.raises(ValueError, match=r"set/test/x: retrieval needs one picture and its texts; .* 2 pictures"):
        retrieve(StandIn(None, None, True), Processor(), [record, two], batch_size=4, candidates=0)
