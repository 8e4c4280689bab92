"""A tenth system goes through the whole house, and no line of the package knows of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import minis
import pytest
import tenth
import toys
from PIL import Image
from safetensors.numpy import load_file

import instructblip_jax as ib

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({{
        "model": "{model}", "steps": 8, "batch_size": 8, "log_every": 1, "checkpoint_every": 4, "dtype": "float32",
        "optim": {{"learning_rate": 1e-2, "warmup_steps": 2}},
        "mixture": {{"sets": ("caption", "count")}},
        "data": {{"directory": "{sets}", "instruction_lengths": (40,), "response_lengths": (24,)}},
        "evaluation": {{"held_in": ("count",), "held_out": ("digit_of",), "batch_size": 8, "max_new_tokens": 6}},
    }})
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("tenth")
    minis.write(root / "model", "tenth")
    toys.write_sets(root / "sets", {"caption": 24, "count": 16, "digit_of": 0})
    (root / "tenth_config.py").write_text(CONFIG.format(model=root / "model", sets=root / "sets"))
    return root


@pytest.fixture(scope="module")
def command(world, environment):
    """Runs one command line with the tenth system in the table; what its --json holds."""

    def run(*argv: object) -> dict:
        report = world / "report.json"
        given = [sys.executable, tenth.__file__, *map(str, argv), f"--json={report}"]
        env = environment() | {"PYTHONPATH": f"{toys.ROOT}:{Path(tenth.__file__).parent}"}
        done = subprocess.run(given, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(report.read_text())

    return run


@pytest.fixture(scope="module")
def trained(world, command):
    """A finished run's workdir and report."""
    return world / "run", command("train", f"--config={world / 'tenth_config.py'}", f"--workdir={world / 'run'}")


def test_it_trains_its_bridge_and_resumes_to_the_same_bits(world, command, trained):
    workdir, report = trained
    assert len(report["losses"]) == 8
    again = shutil.copytree(workdir, world / "again")
    shutil.rmtree(again / "checkpoints" / "8")
    (again / "train.json").unlink()
    resumed = command("train", f"--config={world / 'tenth_config.py'}", f"--workdir={again}")
    assert resumed["weights_sha256"] == report["weights_sha256"]
    assert resumed["losses"] == report["losses"]


def test_it_is_evaluated(world, command, trained):
    sets = command("evaluate", f"--config={world / 'tenth_config.py'}", f"--workdir={trained[0]}")["sets"]
    assert {name: (row["split"], row["count"]) for name, row in sets.items()} == {
        "count": ("held_in", 8),
        "digit_of": ("held_out", 8),
    }


def test_it_answers_and_is_exported_with_what_it_learned(world, command, trained):
    picture = world / "picture.png"
    Image.new("RGB", (30, 20), "red").save(picture)
    given = (f"--model={world / 'model'}", f"--workdir={trained[0]}")
    said = command("answer", *given, f"--image={picture}", "what is it ?")
    written = command("export", *given, f"--out={world / 'out'}")
    assert written["trained"] == ["bridge.bias", "bridge.weight"]
    there, here = (load_file(world / name / "model.safetensors") for name in ("model", "out"))
    assert {name for name, x in here.items() if (x != there[name]).any()} == {"bridge.bias", "bridge.weight"}
    model, processor = ib.from_pretrained(world / "out"), ib.Processor.from_pretrained(world / "out")
    assert ib.generate(model, processor, picture, "what is it ?") == [said["answers"][0]["answer"]]


def test_it_is_planned(world, command):
    pytest.importorskip("libtpu")
    plan = command("plan", f"--config={world / 'tenth_config.py'}", "--topology=v5e:2x2", "--config.dtype=bfloat16")
    assert plan["fits"]
    assert plan["model_flops_per_step"] > 0
