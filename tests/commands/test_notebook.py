"""The demo's notebook over stand-ins for its commands; `test_notebooks` runs all notebooks."""

import importlib
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import IPython
import nbformat
import pytest
import toys
from absl import flags
from PIL import Image

from instructblip_jax.run.config import resolve

STEPS = 20


@pytest.fixture(scope="module")
def notebook():
    read = nbformat.read(toys.ROOT / "launch" / "colab.ipynb", as_version=4)
    nbformat.validate(read)
    return read


@pytest.fixture
def cells(notebook, tmp_path, monkeypatch):
    """Runs the code cells here, in an empty directory; ``run`` is given the words behind ``python`` of each command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEPS", str(STEPS))
    monkeypatch.setenv("DATA", "sets")
    monkeypatch.setenv("MPLBACKEND", "agg")

    def execute(run) -> None:
        shell = SimpleNamespace(
            user_ns={}, events=SimpleNamespace(register=lambda *_: None)
        )  # matplotlib looks for these

        def system(line: str) -> None:
            program, *words = shlex.split(line)
            assert program == sys.executable
            shell.user_ns["_exit_code"] = run(words)

        shell.system = system
        monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
        names: dict = {}
        for cell in notebook.cells:
            if cell["cell_type"] == "code":
                exec(cell["source"], names)

    return execute


def test_each_command_of_the_notebook_is_taken_as_it_stands_there(cells, cli, monkeypatch):
    """Flags, overrides and what each leaves for the cells that follow; training itself is others' tests."""
    begun = {}

    def stand_in(name: str):
        def run(args) -> None:
            workdir = Path(flags.FLAGS.workdir)
            begun[name] = SimpleNamespace(workdir=workdir, args=args)
            if name == "answer":
                begun[name].image = flags.FLAGS.image
                return
            begun[name].config = resolve(flags.FLAGS.config)
            if name == "train":
                logged = [json.dumps({"step": step, "loss": 1 / step}) for step in range(5, STEPS + 1, 5)]
                workdir.mkdir(parents=True)
                (workdir / "metrics.jsonl").write_text("\n".join(logged))
            else:
                (workdir / "evaluation.md").write_text("| set | score |\n")

        return run

    for name in ("train", "evaluate", "answer"):
        monkeypatch.setattr(importlib.import_module(f"instructblip_jax.commands.{name}"), "run", stand_in(name))

    def run(words: list[str]) -> int:
        if words[:2] == ["-m", "instructblip_jax"]:
            done = cli(*words[2:])
            assert done.code == 0, done.err
            return done.code
        if words[:2] == ["-m", "instructblip_jax.datasets.digits"]:
            Image.new("RGB", (48, 48)).save(words[2])
        return 0

    cells(run)
    assert list(begun) == ["train", "evaluate", "answer"]
    assert {one.workdir for one in begun.values()} == {Path("runs/notebook")}
    for name in ("train", "evaluate"):
        config = begun[name].config
        assert (config.steps, config.log_every, config.data.directory) == (STEPS, 5, "sets")
    assert begun["evaluate"].config.evaluation.held_out == ("digit_of",)
    assert begun["answer"].image == ["scene.png"]
    assert len(begun["answer"].args) == 3


def test_a_command_that_fails_ends_the_notebook_there(cells):
    with pytest.raises(RuntimeError, match="its last line says why"):
        cells(lambda words: 1 if "train" in words else Image.new("RGB", (9, 9)).save("scene.png"))
