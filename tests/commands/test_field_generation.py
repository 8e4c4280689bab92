"""`answer` on what people give it: long instructions, many large pictures, numbers that cannot be, broken weights."""

import json
import shutil
import sys
import weakref

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax.commands import answer
from instructblip_jax.processors import image as images

LONG = "which digit is top-left ? " * 14


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for n, path in enumerate(paths):
        Image.new("RGB", (400, 300), (40 * n, 30, 200)).save(path)
    return paths


@pytest.fixture
def given(world, pictures):
    """The start of every command line below."""
    return ("answer", f"--model={world / 'model'}", f"--image={pictures[0]}", "--dtype=float32")


def test_an_instruction_longer_than_the_qformer_reads_is_answered_and_told(cli, given, world, pictures, monkeypatch):
    model = ib.InstructBlip.from_pretrained(world / "model", dtype="float32")
    processor = ib.Processor.from_pretrained(world / "model")
    with pytest.warns(UserWarning, match="64 positions"):
        batch = processor([pictures[0]], [LONG])
    count = len(processor.qformer.encode(LONG))
    assert batch["qformer_input_ids"].shape == (1, 64)
    assert batch["input_ids"].shape[1] > 64
    (want,) = processor.decode(ib.generate_ids(model, batch, max_new_tokens=5))
    told = f"note: an instruction is {count} tokens long, and the Q-Former has 64 positions: it reads the last 64"
    for terminal in (False, True):  # where it streams
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        result = cli(*given, "--max_new_tokens=5", LONG)
        assert (result.code, result.out) == (0, f"{want}\n")
        assert result.err.startswith(told)
        assert result.err.count("\n") == 1
    ranked = cli(*given, "--candidates=3,red", LONG, LONG + "please")
    assert ranked.code == 0
    assert ranked.out.count("\n") == 2
    assert ranked.err.startswith(told)
    assert ranked.err.count("\n") == 1  # once for both
    short = cli(*given, "--max_new_tokens=5", "which digit ?")
    assert (short.code, short.err) == (0, "")


def test_no_decoded_picture_is_kept(cli, world, pictures, monkeypatch):
    """Dozens of large ones would fill the memory."""
    decoded, most = [], []
    opened = images.open_image

    def watched(*args):
        most.append(sum(found() is not None for found in decoded))
        picture = opened(*args)
        decoded.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr(images, "open_image", watched)
    monkeypatch.setattr(answer, "open_image", watched)
    result = cli(
        "answer",
        f"--model={world / 'model'}",
        *(f"--image={path}" for path in pictures),
        "--max_new_tokens=2",
        "which digit ?",
    )
    assert result.code == 0, result.err
    assert result.out.count("\n") == len(pictures)
    assert len(decoded) >= len(pictures)
    assert max(most) <= 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("max_new_tokens=2000000000", "max_new_tokens is 2000000000; a whole number from 1 to 65536"),
        ("max_new_tokens=0", "max_new_tokens is 0; a whole number from 1 to 65536"),
        ("num_beams=1000000", "num_beams is 1000000; a whole number from 1 to 1024"),
        ("length_penalty=nan", "length_penalty is nan; a finite number"),
        ("repetition_penalty=inf", "repetition_penalty is inf; a finite number above 0"),
        ("temperature=2", "--temperature has no effect without --do_sample"),
        ("seed=-1", "--seed"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_loaded(cli, flag, words):
    result = cli("answer", "--model=nowhere", "--image=nowhere.png", f"--{flag}", "which digit ?")
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1


def test_answers_are_drawn_as_python_draws_them(cli, given, world, pictures):
    model = ib.InstructBlip.from_pretrained(world / "model", dtype="float32")
    processor = ib.Processor.from_pretrained(world / "model")
    how = {"do_sample": True, "temperature": 3.0, "top_k": 40, "top_p": 0.95, "max_new_tokens": 6}
    flags = [f"--{name}={value}" for name, value in how.items()]
    for seed in (3, 4):
        want = ib.generate(model, processor, pictures[0], "which digit ?", seed=seed, **how)
        result = cli(*given, *flags, f"--seed={seed}", "which digit ?")
        assert (result.code, result.out) == (0, f"{want[0]}\n")
    assert want != ib.generate(model, processor, pictures[0], "which digit ?", seed=3, **how)


@pytest.mark.parametrize("how", [("--max_new_tokens=3",), ("--num_beams=2",), ("--candidates=3,red",)], ids=" ".join)
def test_weights_that_are_no_numbers_are_no_empty_answer(cli, world, pictures, tmp_path, how):
    model = shutil.copytree(world / "model", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["language_projection.bias"] = np.full_like(tensors["language_projection.bias"], np.nan)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    report = tmp_path / "a.json"
    result = cli("answer", f"--model={model}", f"--image={pictures[0]}", f"--json={report}", *how, "which digit ?")
    assert (result.code, result.out) == (1, "")
    assert f"{model}: the model's logits are not numbers" in result.err
    assert result.err.count("\n") == 1
    assert not report.exists()


def test_markers_in_an_instruction_are_its_text(cli, given, world, pictures, tmp_path):
    """No end token in the middle of what the model reads, and none in a candidate but the last."""
    text, candidate = "which </s> digit <image> ?", "3 </s> red"
    result = cli(*given, f"--candidates={candidate},3", f"--json={tmp_path / 'a.json'}", text)
    assert result.code == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())["answers"]
    got = {told["candidate"]: told["log_likelihood"] for told in row["ranking"]}
    processor = ib.Processor.from_pretrained(world / "model")
    batch = processor([pictures[0]], [text], [candidate])
    end = processor.end_id
    assert batch["input_ids"][0].tolist().count(end) == batch["labels"][0].tolist().count(end) == 1
    loss, aux = ib.loss(ib.InstructBlip.from_pretrained(world / "model", dtype="float32"), batch)
    assert got[candidate] == pytest.approx(-float(loss) * int(aux["tokens"]), abs=1e-3)
