"""A job of two processes computes the image features of a mixture together; one process goes on with them."""

import json

import numpy as np
import pytest


@pytest.mark.long
def test_two_processes_compute_features_that_one_finds(start, train, world, tmp_path):
    steps, features = "--config.steps=5", f"--config.data.features={tmp_path / 'features'}"
    own = [f"--config={world}/tiny.py", f"--workdir={tmp_path}/two", f"--json={tmp_path}/two.json"]
    first, second = start(2, "train", *own, steps, features, "--config.mesh.fsdp=2").wait()
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert second.out == ""
    assert "81 pictures to compute" in first.out
    together = json.loads((tmp_path / "two.json").read_text())

    again, found = train(tmp_path / "again", steps, features, devices=2)
    assert again.code == 0, again.err
    assert "pictures to compute" not in again.out
    plain, pixels = train(tmp_path / "plain", steps, devices=2)
    assert plain.code == 0, plain.err
    assert len(pixels["losses"]) == 5
    for report in (together, found):
        np.testing.assert_allclose(report["losses"], pixels["losses"], rtol=1e-4)
