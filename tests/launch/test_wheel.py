"""The wheel holds what a checkout has beside the package, and runs the demo's commands from an empty environment."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import toys

from instructblip_jax.datasets.digits.tasks import HELD_IN

FOLDERS = ("instructblip_jax", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel. Nothing is downloaded: the build's own requirements are installed."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # a build writes beside setup.py
    for name in FOLDERS:
        shutil.copytree(toys.ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(toys.ROOT / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True, timeout=300)
    (built,) = place.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_the_configurations(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for name in FOLDERS for path in (toys.ROOT / name).rglob("*") if path.is_file()]
    paths = [path.relative_to(toys.ROOT) for path in files if "__pycache__" not in path.parts]
    wanted = {(Path("instructblip_jax") / path if path.parts[0] == "configs" else path).as_posix() for path in paths}
    assert wanted - names == set()
    assert "instructblip_jax/configs/digits.py" in wanted
    assert {name.partition("/")[0] for name in names} == {"instructblip_jax", "instructblip_jax-0.1.0.dist-info"}


@pytest.mark.long
def test_the_demo_runs_without_the_checkout(wheel, tmp_path):
    """Only the wheel is unpacked there; the libraries under it are this environment's."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    toys.write_sets(tmp_path / "data", dict.fromkeys([*HELD_IN, "digit_of"], 8))

    def run(*words: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def instructblip(*words: str) -> str:
        return run("instructblip_jax", *words)

    config = ["--config=digits", "--workdir=run", "--config.steps=2"]
    assert "trained to step 2" in instructblip("train", *config)
    sets = ["--config.evaluation.held_in=('count',)", "--config.evaluation.held_out=('digit_of',)"]
    assert "digit_of" in instructblip("evaluate", *config, *sets)
    run("instructblip_jax.datasets.digits", "scene.png")
    answer = instructblip(
        "answer", "--model=digits", "--workdir=run", "--image=scene.png", "how many digits are there ?"
    )
    assert len(answer.splitlines()) == 1
