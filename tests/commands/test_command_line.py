"""What a wrong command line or configuration gets: its exit code, one line on stderr, and nothing written."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

import instructblip_jax
from instructblip_jax.__main__ import COMMANDS


def refused(result, *words: str, code: int | None = None) -> str:
    """The one line on stderr, without progress bars, which are redrawn before it."""
    line = result.err.rstrip("\n")
    assert "\n" not in line, result.err
    assert result.code in ((1, 2) if code is None else (code,))
    assert line.startswith("instructblip ")
    for word in ("Traceback", "Error(", "errno"):
        assert word not in line
    for word in words:
        assert word in line, line
    assert result.out == ""
    return line


@pytest.fixture(autouse=True)
def nothing_is_written(request, tmp_path, monkeypatch):
    """Every test here runs in an empty directory, and leaves in it what it wrote itself."""
    monkeypatch.chdir(tmp_path)
    yield
    found = [path.relative_to(tmp_path) for path in tmp_path.rglob("*")]
    left = sorted(str(path) for path in found if "__pycache__" not in path.parts)  # Python's own
    assert left == request.node.stash.get(WRITTEN, [])


WRITTEN = pytest.StashKey[list]()


@pytest.fixture
def write(request, tmp_path):
    """Writes a file of the test's own."""

    def write(name: str, content: str):
        (tmp_path / name).write_text(content)
        request.node.stash[WRITTEN] = sorted([*request.node.stash.get(WRITTEN, []), name])
        return tmp_path / name

    return write


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_all_commands(cli, argv):
    result = cli(*argv)
    assert (result.code, result.err) == (0, "")
    for name, what in COMMANDS.items():
        assert f"  {name}" in result.out
        assert what in result.out


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_about_its_own_flags(cli, name, flag):
    result = cli(name, flag)
    assert (result.code, result.err) == (0, "")
    assert f"instructblip {name}" in result.out
    assert "--json" in result.out.replace("[no]", "")
    assert "--workdir" in result.out or name in ("prepare", "convert", "assemble", "plan", "score", "capfilt")
    assert "absl" not in result.out


def test_help_wins_over_everything_else_on_the_line(cli):
    assert cli("train", "--config", "nowhere.py", "--help").code == 0


HEAVY = {"jax", "flax", "optax", "orbax", "transformers", "grain"}
EVERY_COMMAND = """
import sys
from absl import flags
from instructblip_jax.__main__ import COMMANDS, main

for name in COMMANDS:
    for argument, code in (("--help", 0), ("--no_such_flag", 2)):
        before = set(flags.FLAGS)
        assert main(["instructblip", name, argument]) == code, name
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        print("heavy:", name, *HEAVY & sys.modules.keys())
"""


def test_help_and_a_wrong_flag_wait_for_no_library_that_takes_seconds():
    done = subprocess.run([sys.executable, "-c", f"{HEAVY=}\n{EVERY_COMMAND}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("heavy:")]
    assert told == [f"heavy: {name}" for name in COMMANDS for _ in range(2)]


def test_the_version_is_that_of_the_package(cli):
    result = cli("--version")
    assert (result.code, result.out) == (0, importlib.metadata.version("instructblip_jax") + "\n")
    assert instructblip_jax.__version__ == result.out.strip()


def test_the_package_shows_its_public_names_only():
    assert dir(instructblip_jax) == sorted([*instructblip_jax.__all__, "__version__"])


class PanicException(BaseException):
    """As Rust's panics arrive here, those of the tokenizers among them: no Exception."""


@pytest.fixture
def raising(cli, monkeypatch):
    """Runs a right command line, behind which an error waits."""

    def run(error: BaseException, *more: str):
        def fail(args):
            raise error

        monkeypatch.setattr(importlib.import_module("instructblip_jax.commands.score"), "run", fail)
        return cli("score", "exact_match", "--predictions=p", "--references=r", *more)

    return run


@pytest.mark.parametrize("error", [KeyError("history"), PanicException("retry-limit-in-match over")])
def test_an_error_nobody_expected_is_one_line_that_says_how_to_see_more(raising, error):
    result = raising(error)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"instructblip score: {error!r}; --verbosity=1 shows the traceback\n"
    result = raising(error, "--verbosity=1")
    assert result.code == 1
    assert result.err.startswith("Traceback")
    assert result.err.endswith(f"\ninstructblip score: {error!r}\n")


def test_an_expected_error_is_its_message_alone(raising):
    assert raising(ValueError("p: line 3 has no id")).err == "instructblip score: p: line 3 has no id\n"


def test_who_ends_a_command_by_its_exit_code_is_let_go(raising):
    with pytest.raises(SystemExit) as ended:
        raising(SystemExit(143))
    assert ended.value.code == 143


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away_does_not_fail_what_is_done(write, unbuffered):
    """As `| head` does: without a buffer the first line finds nobody, with one the last flush."""
    report = write("score.json", "")
    write("p.jsonl", '{"id": 1, "prediction": "two"}\n')
    write("r.jsonl", '{"id": 1, "answers": ["two"]}\n')
    argv = ["score", "exact_match", "--predictions=p.jsonl", "--references=r.jsonl", "--json=score.json"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "instructblip_jax", *argv],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(report.read_text())["value"] == 1.0


def test_an_unknown_command_lists_the_commands(cli):
    result = cli("trian", "--config", "x")
    assert result.code == 2
    assert result.out == ""
    assert result.err.splitlines()[0] == "instructblip: no command 'trian'"
    assert "evaluate" in result.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train"], ["--config", "--workdir"]),
        (["train", "--workdir=W"], ["--config"]),
        (["train", "--confg=x"], ["confg"]),
        (["train", "--config={world}/tiny.py"], ["--workdir"]),
        (["train", "--config={world}/tiny.py", "--workdir=W", "more"], ["more"]),
        (["evaluate", "--config={world}/tiny.py"], ["--workdir"]),
        (["evaluate", "--config={world}/tiny.py", "--workdir=W", "--split=train"], ["split", "validation"]),
        (["evaluate", "--config={world}/tiny.py", "--workdir=W", "--checkpoint=new"], ["checkpoint", "new"]),
        (["answer"], ["--model", "--image"]),
        (["answer", "--model={world}/model", "which digit ?"], ["--image"]),
        (["answer", "--model={world}/model", "--image=a.png"], ["instruction"]),
        (["answer", "--model={world}/model", "--image=a.png", "--max_new_tokens=0", "a"], ["max_new_tokens"]),
        (["prepare"], ["NAME", "digits"]),
        (["score", "rouge", "--predictions=p", "--references=r"], ["rouge", "cider"]),
        (["prepare", "cocoo", "--out=sets"], ["cocoo", "digits"]),
        (["prepare", "digits"], ["--out"]),
        (["ablate", "--config=x.py", "--workdir=W", "--seeds=1,two"], ["--seeds", "two"]),
        (["ablate", "--config=x.py", "--workdir=W", "steps=3"], ["steps=3"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_a_wrong_command_line_is_one_line_and_exit_code_two(cli, world, argv, words):
    refused(cli(*[arg.format(world=world) for arg in argv]), *words, code=2)


# The configuration


def train(cli, config, *overrides: str):
    return cli("train", f"--config={config}", "--workdir=W", *overrides)


def test_a_configuration_that_is_not_there(cli):
    refused(train(cli, "nowhere.py"), "nowhere.py")


def test_an_unknown_variant_names_those_there_are(cli, world):
    line = refused(cli("train", "--config", f"{world}/tiny.py:nope", "--workdir", "W"), "'nope'", "other", code=2)
    assert line == f"instructblip train: {world}/tiny.py:nope: tiny.py has no variant 'nope'; it has other"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config(:\n", ["own.py", "syntax"]),
        ("import no_such_thing\n", ["own.py", "no_such_thing"]),
        ("x = 1\n", ["own.py", "get_config"]),
        ("def get_config():\n    return None\n", ["own.py"]),
        ("def get_config():\n    return 1 / 0\n", ["own.py", "zero"]),
        ("def get_config():\n    return open('nowhere.json')\n", ["own.py", "nowhere.json"]),
    ],
    ids=["syntax", "import", "no function", "nothing returned", "raises", "opens a file"],
)
def test_a_configuration_file_that_is_none(cli, write, content, words):
    refused(train(cli, write("own.py", content)), *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.stepz=3", ["--config.stepz: ", "no such field; steps?"]),
        ("--config.optim.learning_rat=3", ["--config.optim.learning_rat: ", "no such field; optim.learning_rate?"]),
        ("--config.steps=many", ["steps", "many"]),
        ("--config.mesh.data=2.5", ["mesh.data", "2.5"]),
        ("--config.optim.clip_norm=high", ["clip_norm", "high"]),
        ("--config.model=nowhere", ["nowhere"]),
        ("--config.dtype=float64", ["dtype", "float64", "bfloat16"]),
        ("--config.steps=0", ["config.steps", "0"]),
        ("--config.log_every=0", ["config.log_every"]),
        ("--config.checkpoint_every=-1", ["config.checkpoint_every"]),
        ("--config.seed=-1", ["config.seed"]),
        ("--config.seed=99999999999999999999", ["config.seed"]),
        ("--config.mixture.sets=()", ["config.mixture.sets", "empty"]),
        ("--config.mixture.sets=('count','nothing')", ["nothing", "sets"]),
        ("--config.mixture.exponent=nan", ["mixture.exponent"]),
        ("--config.mesh.data=3", ["mesh.data=3", "8 devices"]),
        ("--config.mesh.tensor=16", ["mesh.tensor=16", "8 devices"]),
        ("--config.mesh.tensor=0", ["tensor", "0"]),
        ("--config.mesh.tensor=-1", ["mesh", "-1"]),
        ("--config.batch_size=12", ["config.batch_size 12", "8"]),
        ("--config.batch_size=0", ["config.batch_size 0"]),
        ("--config.optim.learning_rate=0", ["optim.learning_rate"]),
        ("--config.optim.warmup_steps=-1", ["optim.warmup_steps"]),
        ("--config.data.instruction_lengths=(4,)", ["data.instruction_lengths", "4"]),
        ("--config.data.response_lengths=()", ["data.response_lengths"]),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_fields_that_cannot_be_are_named_before_anything_is_written(cli, world, override, words):
    result = train(cli, world / "tiny.py", override)
    assert result.code in (1, 2)
    refused(result, *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"steps": 30', '"steps": 30, "stepz": 3', ["stepz", "steps"]),
        ('"steps": 30,', "", ["config", "steps"]),
        ('"steps": 30', '"steps": "30"', ["config.steps", "'30'", "int"]),
        ('"steps": 30', '"steps": True', ["config.steps", "True"]),
        ('"exponent": 0.5', '"exponent": "root"', ["config.mixture.exponent", "root"]),
        ('"weights": {}', '"weights": {"count": "often"}', ["config.mixture.weights.count", "often"]),
        ('"weights": {}', '"weights": {"nothing": 2.0}', ["mixture.weights", "nothing"]),
        ('"weights": {}', '"weights": {"count": -2.0}', ["mixture.weights", "negative"]),
        ('("caption", "digit_at", "count")', '"caption"', ["config.mixture.sets", "caption"]),
        ('"data": {', '"data": {"templates": "plane", ', ["config.data.templates", "plane", "plain"]),
        ('"data": {', '"dato": 1, "data": {', ["dato"]),
        ('"optim": {', '"optim": {"momentum": 1, ', ["config.optim", "momentum"]),
        ('"optim": {', '"optim": {"warmup_step": 1, ', ["config.optim", "warmup_step (warmup_steps?)"]),
        ('"optim": {', '"optim": {"accumulation": 0, ', ["optim.accumulation"]),
        ('"optim": {', '"optim": {"accumulation": 3, ', ["config.batch_size 8", "accumulation"]),
        ('"mesh": {', '"trainable": "everything", "mesh": {', ["everything", "qformer"]),
        ('"mesh": {', '"remat": "some", "mesh": {', ["some", "layer"]),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_configuration_with_wrong_fields(cli, world, write, old, new, words):
    content = (world / "tiny.py").read_text()
    assert old in content
    refused(train(cli, write("own.py", content.replace(old, new))), *words)


def test_half_of_a_job_of_several_processes_is_refused(cli, world, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    refused(train(cli, world / "tiny.py"), "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID", "not set")


def test_overrides_reach_the_run_when_main_is_given_its_arguments(cli, world, monkeypatch):
    """As a notebook would call it: `main(["instructblip", "train", ...])`, whatever this process was started with."""
    import sys

    from absl import flags

    from instructblip_jax.__main__ import main

    before = set(flags.FLAGS)
    monkeypatch.setattr(sys, "argv", ["notebook"])
    try:
        code = main(["instructblip", "train", f"--config={world}/tiny.py", "--workdir=W", "--config.batch_size=12"])
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    assert code == 1  # the batch of 12 is what was refused: an unknown flag would be 2
