"""`train` on cached image features: the losses of a run on pixels."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def on_features(train, tmp_path_factory):
    """What a run on features printed and reported, and the cache that it left."""
    root = tmp_path_factory.mktemp("features")
    result, report = train(root / "run", f"--config.data.features={root / 'cache'}")
    assert result.code == 0, result.err
    return result, report, root


def test_a_run_on_features_learns_what_one_on_pixels_learns(finished, on_features):
    _, pixels = finished
    result, stored, _ = on_features
    assert "81 pictures to compute, 960 bytes each" in result.out  # of 40 + 24 + 16 records, and the mean colour
    # Rounding grows from step to step; those of other pictures differ at the second step.
    np.testing.assert_allclose(stored["losses"][:5], pixels["losses"][:5], rtol=1e-4)
    np.testing.assert_allclose(stored["losses"][:15], pixels["losses"][:15], rtol=1e-3)


def test_a_run_may_go_on_with_features_where_it_began_without(cli, world, finished):
    """They change nothing that is learned."""
    workdir, report = finished
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--config.data.features=elsewhere")
    assert result.code == 0, result.err
    assert json.loads((workdir / "train.json").read_text()) == report
