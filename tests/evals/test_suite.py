"""How sets are judged, what a suite's table and picture show, and what evaluation servers get."""

import dataclasses

import pytest
from PIL import Image

from instructblip_jax import recipe
from instructblip_jax.data.prompts import BY_TASK, PROMPTS, evaluation_templates
from instructblip_jax.evals import plot, submission
from instructblip_jax.evals.metrics import METRICS
from instructblip_jax.evals.suite import PAPER, SUITE, WAYS, Judging, judging
from instructblip_jax.evals.table import Row, markdown


def test_every_public_set_is_judged_but_those_that_are_only_trained_on():
    only_trained = {"capfilt", "llava_detail", "llava_conv", "llava_reason"}
    assert SUITE.keys() == {*recipe.HELD_IN, *recipe.HELD_OUT} - only_trained == PROMPTS.keys()
    assert {how.metric for how in SUITE.values()} <= METRICS.keys()
    assert {how.way for how in SUITE.values()} == set(WAYS)
    for numbers in PAPER.values():
        assert numbers.keys() == set(recipe.HELD_OUT)


def test_what_is_said_of_a_set_stands_above_its_own():
    assert judging("gqa", "test", 7, {}) == SUITE["gqa"]
    changed = judging("gqa", "test", 7, {"split": "val_balanced", "num_beams": 1, "length_penalty": 0})
    assert changed == dataclasses.replace(SUITE["gqa"], split="val_balanced", num_beams=1, length_penalty=0)
    assert judging("own", "validation", 7, {}) == Judging("validation", max_new_tokens=7)
    assert evaluation_templates("gqa") == {"gqa": ("Question: {question} Short answer:",)}
    assert evaluation_templates("gqa", "{question}") == {"gqa": ("{question}",)}
    assert evaluation_templates("own") == BY_TASK


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beams": 3}, ["settings.own", "'beams'", "num_beams"]),
        ({"num_beams": "3"}, ["settings.own.num_beams", "'3'", "int"]),
        ({"metric": "acc"}, ["settings.own.metric", "'acc'", "vqa_accuracy"]),
        ({"way": "guess"}, ["settings.own.way", "'guess'", "vocabulary"]),
    ],
)
def test_what_cannot_be_is_named(changes, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        judging("own", "test", 7, changes)
    for word in words:
        assert word in str(caught.value)


ROWS = {
    "coco_caption": Row("held_in", "cider", 1.2, 50, None, (1.1, 1.3)),
    "nocaps": Row("held_out", "cider", 1.0, 45, None, (0.9, 1.05), 1.199),
    "vizwiz": Row("held_out", "vqa_accuracy_evalai", None, 80),
}


def test_intervals_and_the_papers_numbers_stand_beside_ours(tmp_path):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(ROWS).splitlines()]
    assert lines[0] == ["", "set", "metric", "records", "score", "95 %", "paper"]
    assert lines[2][3:] == ["50", "120.0", "110.0 to 130.0", ""]
    assert lines[4][3:] == ["45", "100.0", "90.0 to 105.0", "119.9"]
    assert lines[5][3:] == ["80", "", "", ""]
    plot.draw(ROWS, tmp_path / "scores.png")
    with Image.open(tmp_path / "scores.png") as image:
        assert image.width > 400
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10


def test_evaluation_servers_get_their_own_formats():
    lines = [{"question_id": 7, "image_id": "a.jpg", "prediction": "a cup"}, {"question_id": 8, "image_id": "b.jpg"}]
    lines[1]["prediction"] = "unanswerable"
    assert submission.FORMATS["vqav2"](lines) == [
        {"question_id": 7, "answer": "a cup"},
        {"question_id": 8, "answer": "unanswerable"},
    ]
    assert submission.FORMATS["textvqa"](lines)[0] == {"question_id": 7, "answer": "a cup"}
    assert submission.FORMATS["vizwiz"](lines)[1] == {"image": "b.jpg", "answer": "unanswerable"}
    assert submission.FORMATS["nocaps"](lines)[0] == {"image_id": "a.jpg", "caption": "a cup"}
