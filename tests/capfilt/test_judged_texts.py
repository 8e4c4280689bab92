"""Captions written and texts judged: the same for a row in any company; rules, counts, and files in parts."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.capfilt import kept
from instructblip_jax.capfilt.models import Captioner, Filter, Models
from instructblip_jax.capfilt.pairs import pairs
from instructblip_jax.capfilt.parts import SYNTHETIC, WEB, Judged, Outcome, parts
from instructblip_jax.datasets.draft import Draft, Skip
from instructblip_jax.model import Model
from instructblip_jax.processor import Processor
from instructblip_jax.processors.cleaning import BLIP
from instructblip_jax.processors.pairs import PairProcessor

ROWS = 7
WORDS = ("a digit", "Two digits!", "...", "no digit at all", "a digit", "three", "four")


class Texts:
    """A stand-in for a tokenizer: a text is its characters."""

    pad_id = 0

    def encode(self, text):
        return np.array([1, *map(ord, text), 2], np.int32)


class Matcher:
    """A stand-in for a filter: a picture matches texts by its mean brightness and theirs; counts its calls."""

    def __init__(self):
        self.encoded = 0

    def encode(self, batch):
        self.encoded += 1
        return {"image": batch["pixel_values"].reshape(len(batch["pixel_values"]), -1).mean(1)}

    def match(self, media, batch):
        assert batch["input_ids"].shape[1] in (8, 16, 20)  # static: multiples of 8, cut to the limit
        shade = (batch["input_ids"] * batch["attention_mask"]).sum(1) / batch["attention_mask"].sum(1)
        return np.stack([np.zeros(len(shade)), (media["image"] - shade) / 20], axis=1).astype(np.float32)


class Pairs(PairProcessor):
    def __init__(self, image):
        super().__init__(self, image, Texts(), end_id=2, stop_ids=frozenset())

    media_keys = ("pixel_values",)

    def batch(self, rows, prompt, response=0, *, training=True):
        return self.pad(rows, {"input_ids": prompt})

    def clean(self, text):
        return BLIP.caption(text)

    def token_limit(self, *, training):
        return 20


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Seven pairs: the fourth has no picture, the fifth a broken one."""
    root = tmp_path_factory.mktemp("web")
    rng = np.random.default_rng(0)
    with (root / "web.jsonl").open("w") as file:
        for n, text in enumerate(WORDS):
            if n != 3:
                Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(root / f"{n}.png")
            if n == 4:
                (root / "4.png").write_bytes(b"no picture")
            file.write(json.dumps({"image": f"{n}.png", "caption": text, "id": n}) + "\n")
        file.write(json.dumps({"image": "0.png", "question": "how many?", "answer": "two"}) + "\n")
    return root / "web.jsonl"


@pytest.fixture(scope="module")
def models(world):
    model, processor = (
        Model.from_pretrained(world / "model", dtype="float32"),
        Processor.from_pretrained(world / "model"),
    )
    options = {"max_new_tokens": 6, "min_new_tokens": 1, "top_p": 0.9, "repetition_penalty": 1.1}
    captioner = Captioner(model, processor, "Describe the picture.", 2, options)
    return Models(captioner, Filter(Matcher(), Pairs(processor.image)), batch_size=4, seed=3)


@pytest.fixture(scope="module")
def judged(models, source, tmp_path_factory):
    """All outcomes, in parts of four rows."""
    folder = tmp_path_factory.mktemp("texts")
    found = list(models.outcomes(parts(pairs([source], [], "web"), 4, folder, {"seed": 3})))
    assert [(part.number, len(outcomes)) for part, outcomes in found] == [(0, 4), (1, 3)]
    return [outcome for _, outcomes in found for outcome in outcomes]


def test_every_picture_gets_captions_and_every_text_a_probability(judged, models):
    assert [outcome.reason for outcome in judged] == ["", "", "", "missing picture", "not a picture", "", ""]
    assert [outcome.texts[0].text for outcome in judged if not outcome.reason] == [WORDS[n] for n in (0, 1, 2, 5, 6)]
    for outcome in judged:
        assert [text.source for text in outcome.texts[:1]] == ([] if outcome.reason else [WEB])
        assert {text.source for text in outcome.texts[1:]} <= {SYNTHETIC}
        assert len({text.text for text in outcome.texts}) == len(outcome.texts)
    assert judged[2].texts[0].probability == 0  # nothing remains of "..."
    assert sum(text.source == SYNTHETIC for outcome in judged for text in outcome.texts) > 5
    assert len({text.probability for outcome in judged for text in outcome.texts}) > 8


def test_a_picture_is_encoded_once_by_the_filter_however_many_texts(models, source, tmp_path):
    matcher = Matcher()
    again = dataclasses.replace(models, filter=dataclasses.replace(models.filter, model=matcher))
    list(again.outcomes(parts(pairs([source], [], "web"), 8, tmp_path, {})))
    assert matcher.encoded == 2  # seven rows in batches of four


def test_a_rows_captions_do_not_depend_on_its_company(models, source, judged, tmp_path):
    rows = list(pairs([source], [], "web")())
    other = [rows[n] for n in (6, 0, 5)]
    ((_, found),) = models.outcomes(parts(lambda: iter(other), 3, tmp_path, {}))
    for outcome, want in zip(found, (judged[n] for n in (6, 0, 5)), strict=True):
        assert [text.text for text in outcome.texts] == [text.text for text in want.texts]
        got, probabilities = ([text.probability for text in one.texts] for one in (outcome, want))
        np.testing.assert_allclose(got, probabilities, rtol=1e-5)
    ((_, reseeded),) = dataclasses.replace(models, seed=4).outcomes(parts(lambda: iter(other), 3, tmp_path, {}))
    assert [one.texts[1:] for one in reseeded] != [one.texts[1:] for one in found]


# Rules and counts


OUTCOME = Outcome((Judged(WEB, "a", 0.5), Judged(SYNTHETIC, "b", 0.9), Judged(SYNTHETIC, "c", 0.7)))


@pytest.mark.parametrize(
    ("threshold", "most", "want"),
    [(0.5, 0, "bc"), (0.49, 0, "abc"), (0.8, 0, "b"), (0.95, 0, ""), (0.0, 2, "bc"), (0.0, 1, "b"), (0.8, 2, "b")],
)
def test_the_rule_keeps_what_is_above_the_threshold_and_the_likeliest(threshold, most, want):
    assert "".join(text.text for text in kept.Rule(threshold, most).kept(OUTCOME)) == want


def test_kept_texts_become_answers_and_everything_else_skips(source, tmp_path):
    (part,) = parts(pairs([source], [], "web"), 100, tmp_path, {})
    assert part.read() is None
    lost = Outcome(reason="missing picture", detail="3.png")
    part.write([OUTCOME, Outcome((Judged(WEB, "x", 0.2),)), OUTCOME, lost, lost, OUTCOME, OUTCOME])
    rule = kept.Rule(0.6, 0)
    *rows, asked = kept.drafts(parts(pairs([source], [], "web"), 100, tmp_path, {}), lambda one: one.read(), rule)
    assert (asked.reason, asked.where) == ("not one picture with a text", f"{source}:8")
    assert [row.record.uid for row in rows if isinstance(row, Draft)] == [f"web/train/{n}" for n in (0, 2, 5, 6)]
    assert rows[0].record.answers == ("b", "c")
    assert rows[0].record.meta == {"sources": [SYNTHETIC] * 2, "probabilities": [0.9, 0.7]}
    assert rows[1] == Skip(f"{source}:2", "no text is kept", "web 0.200 'x'")
    assert rows[3] == Skip(f"{source}:4", "missing picture", "3.png")
    counts = kept.counted(parts(pairs([source], [], "web"), 100, tmp_path, {}), rule)
    assert (counts.pictures, counts.with_text, counts.with_both) == (5, 4, 0)
    assert counts.kept == {WEB: 0, SYNTHETIC: 8}
    assert counts.dropped == {WEB: 5, SYNTHETIC: 0}
    assert "4 of 5 pictures keep a text, 0 of them both kinds" in list(counts.lines())


# Parts


@pytest.mark.parametrize("change", ["settings", "rows", "size"])
def test_a_file_of_other_rows_or_settings_counts_as_none(source, tmp_path, change):
    rows = pairs([source], [], "web")
    for part in parts(rows, 4, tmp_path, {"seed": 1}):
        part.write([OUTCOME] * len(part.drafts))
    assert all(part.read() for part in parts(rows, 4, tmp_path, {"seed": 1}))
    settings, size = {"seed": 2 if change == "settings" else 1}, 3 if change == "size" else 4
    if change == "rows":
        changed = [row for row in rows() if row.where != f"{source}:6"]
        first, second = parts(lambda: iter(changed), size, tmp_path, settings)
        assert first.read()
        assert second.read() is None
    else:
        assert not any(part.read() for part in parts(rows, size, tmp_path, settings))


def test_sources_follow_one_another_and_all_their_splits_count(source, tmp_path):
    with tarfile.open(tmp_path / "test-0.tar", "w") as archive:
        for name in ("0.png", "5.png"):
            archive.add(source.parent / name, name)
            (tmp_path / "text").write_text(f"text of {name}")
            archive.add(tmp_path / "text", name.replace("png", "txt"))
    rows = list(pairs([tmp_path / "test-0.tar", source], [], "both")())
    assert [row.record.uid for row in rows[:3]] == ["both/train/0", "both/train/5", "both/train/0"]
    assert [row.record.answers for row in rows[:3]] == [("text of 0.png",), ("text of 5.png",), ("a digit",)]
    assert {row.record.split for row in rows if isinstance(row, Draft)} == {"train"}
