"""docs/own_data.md, run as it is written, in an empty directory: in CI with few pictures and steps; in full: `long`."""

import json
import os
import re
import subprocess
import sys

import pytest
import toys

PAGE = (toys.ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
SCRIPT = "set -eu\n" + "\n".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ACCURACY = float(re.search(r"<!-- accuracy -->(\d+) %", PAGE)[1]) / 100
FEWER = {"--count 400": "--count 12", "config.steps = 400": "config.steps = 2"}


def walk(place, script, **variables):
    """Run the commands in ``place``, by this interpreter and from this tree; returns their output."""
    programs = place / "programs"
    programs.mkdir()
    for name, what in (("instructblip", "-m instructblip_jax "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what}"$@"\n')
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(toys.ROOT),
        **variables,
    }
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_every_command_of_the_page_ends_well(tmp_path, environment):
    script = SCRIPT
    for full, fewer in FEWER.items():
        assert script.count(full) == 1, f"docs/own_data.md no longer says {full!r}"
        script = script.replace(full, fewer)
    for command in ("prepare custom", "train", "evaluate", "answer"):
        assert f"instructblip {command} " in script
    out = walk(tmp_path, script, XLA_FLAGS=environment()["XLA_FLAGS"])
    told = json.loads((tmp_path / "evaluation.json").read_text())["sets"]["own"]
    splits = json.loads((tmp_path / "prepared.json").read_text())["splits"]
    assert splits["train"]["written"] == 24
    assert told["count"] == splits["test"]["written"] > 0
    assert len(out.splitlines()) > 2


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the page's commands ran, and what they printed."""
    place = tmp_path_factory.mktemp("walk")
    return place, walk(place, SCRIPT, XLA_FLAGS="")  # as a user has it: one device, and a compiler that optimizes


@pytest.mark.long
def test_every_picture_is_prepared(directory):
    place, _ = directory
    splits = json.loads((place / "prepared.json").read_text())["splits"]
    assert {name: told["written"] for name, told in splits.items()} == {"train": 800, "validation": 80, "test": 200}
    assert all(told["skipped"] == 0 for told in splits.values())


@pytest.mark.long
def test_the_page_promises_what_is_reached(directory):
    place, _ = directory
    told = json.loads((place / "evaluation.json").read_text())["sets"]["own"]
    assert told["count"] == 200
    assert told["value"] > ACCURACY
    assert told["blind"] < 0.35


@pytest.mark.long
def test_the_page_tells_the_answers_that_are_given(directory):
    _, out = directory
    colour, place = re.search(r"one answer per line, `(\S+)` and `(\S+)`", PAGE.replace("\n", " ")).groups()
    assert out.splitlines()[-2:] == [colour, place]
