"""docs/own_data.md, run as it is written, in an empty directory."""

import json
import os
import re
import subprocess
import sys

import pytest
import toys

PAGE = (toys.ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ACCURACY = float(re.search(r"<!-- accuracy -->(\d+) %", PAGE)[1]) / 100


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where the commands ran, and what the last of them printed."""
    place = tmp_path_factory.mktemp("walk")
    programs = place / "programs"
    programs.mkdir()
    for name, what in (("instructblip", "-m instructblip_jax "), ("python", "")):  # this interpreter, this tree
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what}"$@"\n')
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",  # as a user has it: one device, and a compiler that optimizes
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(toys.ROOT),
    }
    script = "set -eu\n" + "\n".join(BLOCKS)
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place, done.stdout


def test_the_page_has_the_commands_it_talks_about():
    script = "\n".join(BLOCKS)
    for command in ("prepare custom", "train", "evaluate", "answer"):
        assert f"instructblip {command} " in script


def test_every_picture_is_prepared(directory):
    place, _ = directory
    splits = json.loads((place / "prepared.json").read_text())["splits"]
    assert {name: told["written"] for name, told in splits.items()} == {"train": 800, "validation": 80, "test": 200}
    assert all(told["skipped"] == 0 for told in splits.values())


def test_the_page_promises_what_is_reached(directory):
    place, _ = directory
    told = json.loads((place / "evaluation.json").read_text())["sets"]["own"]
    assert told["count"] == 200
    assert told["value"] > ACCURACY
    assert told["blind"] < 0.35


def test_the_page_tells_the_answers_that_are_given(directory):
    _, out = directory
    colour, place = re.search(r"an answer a line, `(\S+)` and `(\S+)`", PAGE.replace("\n", " ")).groups()
    assert out.splitlines()[-2:] == [colour, place]
