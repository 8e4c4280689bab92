"""Each way of judging: the calls of the model, and the use of its answers. The model is a stand-in."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from instructblip_jax.data.evaluation import EvalBatch
from instructblip_jax.data.record import Record
from instructblip_jax.evals import predict
from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.evals.suite import EvalSpec

ROWS = 4
OWN = "the rows of this host"


class Model:
    """A stand-in whose encoded media are the given ones, a row each."""

    def __init__(self, prompt_is_counted=False):
        self.config = SimpleNamespace(prompt_is_counted=prompt_is_counted)

    def has(self, method):
        return False

    def encode(self, media, *, place, own, rows):
        assert (own, rows) == (OWN, 2)
        return {key: array[place] for key, array in media.items()}


class Processor:
    """A stand-in that decodes row b's answer b."""

    def decode(self, ids):
        return [f"said {n}" for n in ids[:, 0]]

    def blank(self, media):
        return {key: np.zeros_like(array) for key, array in media.items()}


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def asked():
    """Three records, and a fourth row that repeats the first; two pictures, told by their grey."""
    records = [
        Record(f"s/t/{n}", "s", "t", "rank", (), {}, ("a",), candidates=("a", "b", "c")[: n + 1]) for n in range(3)
    ]
    pixels = np.stack([np.full((2, 2, 3), grey, np.float32) for grey in (0.5, 0.25)])
    text = {"input_ids": np.zeros((ROWS, 6), np.int32)}
    return EvalBatch(records, {"pictures": pixels}, 2, np.array([0, 1, 1, 0], np.int32), text, OWN)


@pytest.fixture
def scored(monkeypatch):
    """Candidate n of row b scores as ``table`` says; ``calls`` has what was asked."""
    seen = SimpleNamespace(calls=[], table=None)

    def score(model, processor, media, text, lists, *, include_end):
        seen.calls.append((media["pictures"][:, 0, 0, 0].tolist(), lists, include_end))
        most = max(map(len, lists))
        return np.array(
            [[seen.table(b, n) if n < len(lists[b]) else -np.inf for n in range(most)] for b in range(ROWS)]
        )

    monkeypatch.setattr(predict, "score", score)
    return seen


def test_candidates_of_each_record_are_ranked(model, asked, scored):
    scored.table = lambda b, n: -float(abs(n - 1))  # the second is the best, where there is one
    got = predict.predictions(model, Processor(), asked, EvalSpec(mode="rank"))
    assert got == [Prediction("a", (-1.0,)), Prediction("b", (-1.0, 0.0)), Prediction("b", (-1.0, 0.0, -1.0))]
    ((shown, lists, end),) = scored.calls
    assert shown == [0.5, 0.25, 0.25, 0.5]  # each row its own picture
    assert lists == [("a",), ("a", "b"), ("a", "b", "c"), ("a",)]  # filled up with the first record's
    assert end is True
    predict.predictions(model, Processor(), asked, EvalSpec(mode="rank", include_end=False))
    assert scored.calls[1][2] is False


def test_of_a_vocabulary_the_best_is_said_and_no_score_kept(model, asked, scored):
    scored.table = lambda b, n: 1.0 if n == b else 0.0
    got = predict.predictions(model, Processor(), asked, EvalSpec(mode="vocabulary"), ["x", "y", "z"])
    assert got == [Prediction("x"), Prediction("y"), Prediction("z")]
    assert scored.calls[0][1] == [("x", "y", "z")] * ROWS


def test_yes_against_no_is_a_log_odds(model, asked, scored):
    logs = {"no": -1.0, "false": -3.0, "yes": -2.0, "true": -2.5}
    order: list[str] = []
    scored.table = lambda b, n: logs[order[n]] if b < 2 else -logs[order[n]]
    order[:] = predict.candidates(asked.records[0], "binary", ())
    assert sorted(order) == sorted(logs)
    got = predict.predictions(model, Processor(), asked, EvalSpec(mode="binary"))
    odds = math.log(math.exp(-2) + math.exp(-2.5)) - math.log(math.exp(-1) + math.exp(-3))
    assert [one.text for one in got] == ["no", "no", "false"]
    assert got[0].scores == pytest.approx((odds,))
    assert got[2].scores == pytest.approx(
        (math.log(math.exp(2) + math.exp(2.5)) - math.log(math.exp(1) + math.exp(3)),)
    )


def test_a_record_with_nothing_to_rank_is_named(model, asked, scored):
    bare = dataclasses.replace(asked.records[1], candidates=())
    broken = dataclasses.replace(asked, records=[asked.records[0], bare])
    with pytest.raises(ValueError, match="s/t/1: has no candidates to rank; evaluate it in another mode than 'rank'"):
        predict.predictions(model, Processor(), broken, EvalSpec(mode="rank"))


class Classifier(Model):
    """A stand-in with two classes; of row b it thinks ``logits[b]``."""

    def __init__(self, logits):
        self.config = SimpleNamespace(classes=("False", "True"))
        self.logits = logits

    def has(self, method):
        return method == "classify"

    def classify(self, media, text):
        return np.array(self.logits, np.float32)


def test_a_class_is_scored_in_the_order_of_the_records_candidates(asked):
    orders = [("False", "True"), ("true", "false"), ("False", "True")]
    records = [dataclasses.replace(row, candidates=names) for row, names in zip(asked.records, orders, strict=True)]
    batch, model = dataclasses.replace(asked, records=records), Classifier([[0, 2], [0, 2], [1, -1], [0, 2]])
    got = predict.predictions(model, Processor(), batch, EvalSpec(mode="classify"))
    assert got == [Prediction("True", (0, 2)), Prediction("true", (2, 0)), Prediction("False", (1, -1))]
    strange = dataclasses.replace(records[1], candidates=("yes", "no"))
    with pytest.raises(ValueError, match="s/t/1: its candidates are yes, no, and this model's classes are False, True"):
        predict.predictions(
            model, Processor(), dataclasses.replace(batch, records=[strange]), EvalSpec(mode="classify")
        )


def test_a_model_that_writes_ranks_the_names_of_the_classes(model, asked, scored):
    scored.table = lambda b, n: float(n)
    got = predict.predictions(model, Processor(), asked, EvalSpec(mode="classify"))
    assert [one.text for one in got] == ["a", "b", "c"]


@pytest.fixture
def generated(monkeypatch):
    """The options of each call; row b is answered with b."""
    calls = []

    def generate_ids(model, text, *, media, **options):
        calls.append(options | {"shown": media["pictures"][:, 0, 0, 0].tolist()})
        return np.arange(ROWS)[:, None]

    monkeypatch.setattr(predict, "generate_ids", generate_ids)
    return calls


@pytest.mark.parametrize(
    ("given", "counted", "want"), [(None, True, -1.0), (None, False, 0.0), (1.0, True, 1.0), (0.5, False, 0.5)]
)
def test_answers_are_generated_as_the_set_says(asked, generated, given, counted, want):
    """A length penalty that is not given is that of short answers."""
    how = EvalSpec(num_beams=3, max_new_tokens=9, min_new_tokens=2, length_penalty=given, repetition_penalty=1.5)
    got = predict.predictions(Model(counted), Processor(), asked, how)
    assert got == [Prediction("said 0"), Prediction("said 1"), Prediction("said 2")]
    (options,) = generated
    assert options.pop("shown") == [0.5, 0.25, 0.25, 0.5]
    assert options == {
        "num_beams": 3,
        "max_new_tokens": 9,
        "min_new_tokens": 2,
        "length_penalty": want,
        "repetition_penalty": 1.5,
    }


@pytest.mark.parametrize(
    ("blind", "blank", "shown"), [(False, False, [0.5]), (True, False, [0.5, 0.0]), (False, True, [0.0])]
)
def test_a_blind_answer_stands_beside_the_other(model, asked, generated, blind, blank, shown):
    answers = predict.answered(model, Processor(), iter([asked]), EvalSpec(), blind=blind, blank_image=blank)
    ((first, *_),) = answers
    assert [call["shown"][0] for call in generated] == shown
    assert first == (asked.records[0], Prediction("said 0"), Prediction("said 0") if blind else None)
