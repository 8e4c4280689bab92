"""A tiny model, tiny sets and a configuration over both; the command line in a process of its own."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import toys
from compiling import FLAGS
from PIL import Image

CONFIG = """
from ml_collections import ConfigDict

def get_config(variant=""):
    if variant not in ("", "other"):
        raise ValueError(f"tiny.py has no variant {{variant!r}}; it has other")
    return ConfigDict({{
        "model": "{model}",
        "steps": 30,
        "batch_size": 8,
        "log_every": 1,
        "log_examples": False,
        "checkpoint_every": 7,
        "validate_every": 0,
        "seed": 4 if variant else 3,
        "dtype": "float32",
        "mesh": {{"data": -1, "fsdp": 1, "tensor": 1}},
        "optim": {{"learning_rate": 1e-2, "warmup_steps": 5, "clip_norm": 1.0}},
        "mixture": {{"sets": ("caption", "digit_at", "count"), "exponent": 0.5, "weights": {{}}}},
        "data": {{"directory": "{sets}", "instruction_lengths": (40,), "response_lengths": (24,), "features": ""}},
        "evaluation": {{"held_in": ("count",), "held_out": ("digit_of",), "batch_size": 8, "max_new_tokens": 6}},
    }})
"""


@dataclasses.dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


GLOO = r"\[Gloo\] Rank | is connected to | peer ranks\. |Expected number of connected peer ranks is : "


def without_gloo(said: str) -> str:
    """What a process said, without the lines of the collectives' library, whose threads write into one another's."""
    kept = [line for line in said.splitlines(keepends=True) if not re.fullmatch(rf"({GLOO}|\d)*\n", line)]
    return "".join(kept) if "[Gloo]" in said else said


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A directory with ``model``, ``sets`` and the configuration ``tiny.py`` over both."""
    root = tmp_path_factory.mktemp("world")
    toys.write_model(root / "model")
    toys.write_sets(root / "sets", {"caption": 40, "digit_at": 24, "count": 16, "digit_of": 0})
    (root / "tiny.py").write_text(CONFIG.format(model=root / "model", sets=root / "sets"))
    return root


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """Writes the mini of a system (`tests/systems/minis.py`) as a directory."""
    sys.path.insert(0, str(toys.ROOT / "tests" / "systems"))
    try:
        import minis
    finally:
        sys.path.pop(0)
    return lambda kind: minis.write(tmp_path_factory.mktemp("mini") / kind, kind)


@pytest.fixture(scope="session")
def blips(mini):
    """The directories of a tiny BLIP that captions, and of one that compares."""
    return mini("blip-captioning"), mini("blip")


@pytest.fixture(scope="session")
def web(tmp_path_factory):
    """Web pairs: a folder with eleven pictures and texts, one of them broken, and a tar archive of the first three."""
    root = tmp_path_factory.mktemp("web")
    folder, rng = root / "pairs", np.random.default_rng(0)
    folder.mkdir()
    with tarfile.open(root / "web.tar", "w") as archive:
        for n in range(11):
            picture, text = folder / f"{n:02d}.png", folder / f"{n:02d}.txt"
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(picture)
            text.write_text(f"{n} digits in a picture")
            if n < 3:
                archive.add(picture, picture.name)
                archive.add(text, text.name)
    (folder / "05.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="session")
def environment():
    """Makes the environment of a process of its own, with so many devices."""

    def make(devices: int = 1) -> Mapping[str, str]:
        return os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FLAGS}",
            "PYTHONPATH": str(toys.ROOT),
            "PYTHONFAULTHANDLER": "1",  # a crash of a library says where
        }

    return make


@pytest.fixture(scope="session")
def process(environment):
    """Runs one command line in a process of its own."""

    def run(*argv: object, devices: int = 1, cwd: Path | None = None) -> Result:
        command = [sys.executable, "-m", "instructblip_jax", *map(str, argv)]
        done = subprocess.run(
            command, env=environment(devices), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def train(process, world):
    """Runs `train` in a workdir: what came out, and what --json holds, if it was written."""

    def run(workdir: Path, *more: object, **options) -> tuple[Result, dict | None]:
        report = workdir.with_name(f"{workdir.name}.json")
        given = (f"--config={world / 'tiny.py'}", f"--workdir={workdir}", f"--json={report}", *more)
        result = process("train", *given, **options)
        return result, json.loads(report.read_text()) if report.exists() else None

    return run


@pytest.fixture(scope="session")
def finished(train, tmp_path_factory):
    """A workdir of a run that nothing disturbed, and what it reported."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result, report = train(workdir)
    assert result.code == 0, result.err
    return workdir, report
