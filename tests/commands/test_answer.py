"""answer: candidates, frames, beams, int8, and a single answer told as it is written."""

import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib

TEXTS = ["which digit ?", "how many digits are there ?"]


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for n in range(2):
        pixels = np.random.default_rng(n).integers(0, 256, (30, 40, 3), np.uint8)
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_candidates_are_ranked_for_every_picture_and_instruction(cli, world, pictures, tmp_path):
    images = [f"--image={path}" for path in pictures]
    given = [f"--model={world / 'model'}", *images, "--dtype=float32", "--candidates=3,red,top-left"]
    result = cli("answer", *given, f"--json={tmp_path / 'a.json'}", *TEXTS)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert [(row["image"], row["instruction"]) for row in rows] == [(str(p), t) for p in pictures for t in TEXTS]
    model = ib.InstructBlip.from_pretrained(world / "model", dtype="float32")
    processor = ib.Processor.from_pretrained(world / "model")
    for row, line in zip(rows, result.out.splitlines(), strict=True):
        want = ib.rank(model, processor, row["image"], row["instruction"], ["3", "red", "top-left"])[0]
        got = {told["candidate"]: told["log_likelihood"] for told in row["ranking"]}
        assert [got[name] for name in ("3", "red", "top-left")] == pytest.approx(want.tolist(), abs=1e-4)
        assert list(got.values()) == sorted(got.values(), reverse=True)
        assert line.split()[0] == row["answer"] == next(iter(got))
        assert math.isfinite(sum(got.values()))


def test_a_video_is_one_row_of_frames(cli, world, pictures, tmp_path):
    given = [f"--model={world / 'model'}", *(f"--image={path}" for path in pictures), "--dtype=float32"]
    asked = [*given, "--frames", "--max_new_tokens=5", "--num_beams=2", f"--json={tmp_path / 'a.json'}", TEXTS[0]]
    assert cli("answer", *asked).code == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert row["image"] == [str(path) for path in pictures]
    model = ib.InstructBlip.from_pretrained(world / "model", dtype="float32")
    processor = ib.Processor.from_pretrained(world / "model")
    frames = [str(path) for path in pictures]
    want = ib.generate(model, processor, [frames], TEXTS[0], max_new_tokens=5, num_beams=2)
    assert [row["answer"]] == want


def test_one_answer_streams_to_a_terminal_and_is_the_same(cli, world, pictures, monkeypatch):
    given = [f"--model={world / 'model'}", f"--image={pictures[0]}", "--int8", "--max_new_tokens=6", TEXTS[1]]
    plain = cli("answer", *given)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    streamed = cli("answer", *given)
    assert plain.code == streamed.code == 0
    assert streamed.out == plain.out
    assert plain.out.strip()


def test_an_empty_candidate_is_refused(cli, world, pictures):
    result = cli("answer", f"--model={world / 'model'}", f"--image={pictures[0]}", "--candidates=yes,,no", "a ?")
    assert result.code == 2
    assert "--candidates" in result.err
    assert "empty" in result.err


def test_what_cannot_be_drawn_is_refused(cli, world, pictures):
    given = ["answer", f"--model={world / 'model'}", f"--image={pictures[0]}"]
    for more, words in (
        (["--look=a.png", f"--image={pictures[1]}"], "one --image"),
        (["--look=a.jpg"], "it must be a PNG file"),
    ):
        result = cli(*given, *more, "a ?")
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert words in result.err


def test_a_caption_needs_no_instruction_and_an_answer_does(cli, world, blips, pictures, tmp_path):
    given = [f"--image={pictures[0]}", "--dtype=float32", "--max_new_tokens=4", f"--json={tmp_path / 'a.json'}"]
    result = cli("answer", f"--model={blips[0]}", *given, "")
    assert result.code == 0, result.err
    model, processor = (x.from_pretrained(blips[0], **y) for x, y in ((ib, {"dtype": "float32"}), (ib.Processor, {})))
    (row,) = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert [row["answer"]] == ib.generate(model, processor, pictures[0], "", max_new_tokens=4)
    result = cli("answer", f"--model={world / 'model'}", *given, "  ")
    assert result.code == 1
    assert "instructions[0] is '  '; a text is needed" in result.err


def test_a_model_that_compares_tells_how_much_alike_pictures_and_texts_are(cli, blips, pictures, tmp_path):
    given = [f"--model={blips[1]}", *(f"--image={path}" for path in pictures), "--dtype=float32"]
    result = cli("answer", *given, f"--json={tmp_path / 'a.json'}", *TEXTS)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "a.json").read_text())["answers"]
    model, processor = (x.from_pretrained(blips[1], **y) for x, y in ((ib, {"dtype": "float32"}), (ib.Processor, {})))
    cosines = ib.similarity(model, processor, list(pictures), TEXTS)
    matches = [ib.match(model, processor, path, TEXTS) for path in pictures]
    assert [row["similarity"] for row in rows] == pytest.approx(cosines.ravel().tolist(), abs=1e-5)
    assert [row["match"] for row in rows] == pytest.approx(np.concatenate(matches).tolist(), abs=1e-5)
    assert f"match {100 * rows[0]['match']:.1f} %  {TEXTS[0]}" in result.out
    result = cli("answer", *given, "--candidates=yes,no", *TEXTS)
    assert result.code == 1
    assert "--candidates has no effect" in result.err
