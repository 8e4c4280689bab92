"""Models, workdirs, sets and pictures that cannot be used: one line on stderr, nothing half-written."""

import json
import shutil

import pytest
import toys
from PIL import Image


@pytest.fixture
def model(world, tmp_path):
    """A copy to be broken."""
    return shutil.copytree(world / "model", tmp_path / "model")


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (20, 20), (200, 30, 30)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def refused(result, *words) -> None:
    assert result.code == 1
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert str(word) in result.err
    for word in ("Traceback", "Error("):
        assert word not in result.err


def edit(path, **changes):
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | changes))


def truncate(path, keep: float = 0.6):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


BREAK = {
    "absent": lambda m: (shutil.rmtree(m), "no such model directory"),
    "empty": lambda m: (shutil.rmtree(m), m.mkdir(), "config.json"),
    "a file": lambda m: (shutil.rmtree(m), m.write_text("x"), "no such model directory"),
    "no weights": lambda m: ((m / "model.safetensors").unlink(), "model.safetensors"),
    "truncated weights": lambda m: (truncate(m / "model.safetensors"), "model.safetensors: truncated"),
    "broken config": lambda m: (truncate(m / "config.json"), "config.json: not valid JSON"),
    "another model": lambda m: (edit(m / "config.json", model_type="llava-next"), "'llava-next'"),
    "no tokenizer": lambda m: ((m / "tokenizer.json").unlink(), "tokenizer.json"),
    "broken tokenizer": lambda m: (truncate(m / "tokenizer.json"), "tokenizer.json: not a tokenizer file"),
    "no qformer tokenizer": lambda m: (shutil.rmtree(m / "qformer_tokenizer"), "qformer_tokenizer"),
    "no image config": lambda m: ((m / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
    "wrong image config": lambda m: (edit(m / "preprocessor_config.json", size={}), "preprocessor_config.json: size"),
    "image of another size": lambda m: (
        edit(m / "preprocessor_config.json", size={"height": 32, "width": 32}),
        "32",
    ),
}


@pytest.mark.parametrize("fault", BREAK)
def test_a_model_that_cannot_be_used(cli, world, model, picture, tmp_path, fault):
    words = BREAK[fault](model)[-1]
    before = set(tmp_path.rglob("*"))
    refused(cli("answer", f"--model={model}", f"--image={picture}", "which digit ?"), words)
    train = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", f"--config.model={model}")
    refused(train, words)
    assert set(tmp_path.rglob("*")) == before


# Workdirs


def test_a_directory_of_something_else_is_no_workdir(cli, world, tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter one")
    refused(cli("train", f"--config={world / 'tiny.py'}", f"--workdir={tmp_path}"), tmp_path, "--workdir")
    refused(cli("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={tmp_path}"), tmp_path, "instructblip train")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["{}", '{"model_type": "t5"}', "[1]", "{", ""])
def test_a_config_json_of_something_else_makes_no_workdir(cli, world, picture, tmp_path, content):
    """Such as a model directory that was given for the workdir."""
    workdir = tmp_path / "w"
    workdir.mkdir()
    (workdir / "config.json").write_text(content)
    answer = cli("answer", f"--model={world / 'model'}", f"--workdir={workdir}", f"--image={picture}", "which digit ?")
    refused(answer, workdir)
    for command in ("train", "evaluate"):
        refused(cli(command, f"--config={world / 'tiny.py'}", f"--workdir={workdir}"), workdir)
    assert [(path.name, path.read_text()) for path in workdir.iterdir()] == [("config.json", content)]


def test_an_empty_directory_and_one_that_is_absent_have_nothing_to_judge(cli, world, picture, tmp_path):
    for workdir in (tmp_path / "absent", tmp_path):
        refused(cli("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={workdir}"), workdir)
        given = (f"--model={world / 'model'}", f"--workdir={workdir}", f"--image={picture}")
        refused(cli("answer", *given, "which digit ?"), workdir)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_workdir_that_is_a_file(cli, world, picture):
    refused(cli("train", f"--config={world / 'tiny.py'}", f"--workdir={picture}"), picture)


# Sets


def test_a_prepared_set_that_was_truncated_is_named(cli, world, tmp_path):
    sets = shutil.copytree(world / "sets", tmp_path / "sets")
    for file in (sets / "count").rglob("*train*"):
        truncate(file, 0.5)
    result = cli(
        "train", f"--config={world / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", f"--config.data.directory={sets}"
    )
    assert result.code == 1
    assert f"{sets / 'count'}" in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


# Pictures and instructions


@pytest.mark.parametrize(
    ("name", "content"),
    [("absent.png", None), ("empty.png", b""), ("text.png", b"hello"), ("cut.png", "cut"), ("directory", "directory")],
)
def test_an_unreadable_picture_is_named_before_the_model_is_loaded(cli, picture, tmp_path, name, content):
    path = tmp_path / name
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(picture.read_bytes()[:60] if content == "cut" else content)
    result = cli("answer", "--model=nowhere", f"--image={picture}", f"--image={path}", "which digit ?")
    refused(result, path)
    assert "nowhere" not in result.err


def test_an_instruction_of_which_no_word_is_known_is_refused(cli, world, picture):
    refused(cli("answer", f"--model={world / 'model'}", f"--image={picture}", "数字 は ?!%"), "数字 は ?!%")


def test_an_instruction_longer_than_the_qformer_takes_is_answered_and_told(cli, world, picture):
    result = cli("answer", f"--model={world / 'model'}", f"--image={picture}", "which digit ? " * 60)
    assert result.code == 0
    assert result.out.count("\n") == 1
    assert "the Q-Former has 64 positions: it reads the last 64" in result.err
    assert result.err.count("\n") == 1


def test_a_report_that_cannot_be_written_is_named(cli, world, picture, tmp_path):
    json_file = tmp_path / "no" / "such" / "a.json"
    given = (f"--json={json_file}", f"--model={world / 'model'}", f"--image={picture}")
    result = cli("answer", *given, "which digit ?", "--max_new_tokens=2")
    assert result.code == 1
    assert str(json_file) in result.err


def test_blip2_answers_too(cli, picture, tmp_path):
    toys.write_model(tmp_path / "blip2", "blip-2")
    result = cli("answer", f"--model={tmp_path / 'blip2'}", f"--image={picture}", "which digit ?", "--max_new_tokens=2")
    assert (result.code, result.err) == (0, "")
    assert result.out.count("\n") == 1
