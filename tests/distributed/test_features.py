"""A job of two processes computes the image features of a mixture together; one process goes on with them."""

import json
from pathlib import Path

import numpy as np


def command(world: Path, workdir: Path, *more: object) -> list[str]:
    own = [f"--config={world}/tiny.py", f"--workdir={workdir}", "--config.steps=5", f"--json={workdir}.json"]
    return ["train", *own, *map(str, more)]


def losses(workdir: Path) -> list[float]:
    return json.loads(Path(f"{workdir}.json").read_text())["losses"]


def test_two_processes_compute_features_that_one_finds(start, process, world, tmp_path):
    features = f"--config.data.features={tmp_path / 'features'}"
    job = start(2, *command(world, tmp_path / "two", features, "--config.mesh.fsdp=2"))
    first, second = job.wait()
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert second.out == ""
    assert "81 pictures to compute" in first.out

    again = process(*command(world, tmp_path / "again", features), devices=2)
    assert again.code == 0, again.err
    assert "pictures to compute" not in again.out
    plain = process(*command(world, tmp_path / "plain"), devices=2)
    assert plain.code == 0, plain.err
    assert len(losses(tmp_path / "plain")) == 5
    for name in ("two", "again"):
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "plain"), rtol=1e-4)
