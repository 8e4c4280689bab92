"""Apache Beam writes the same bytes."""

import pytest
from preparing import prepare, splits, tree, write_source

from instructblip_jax.data.places import directory_of
from instructblip_jax.datasets.prepare import shards


def test_beam_writes_the_same_files(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="--beam needs Apache Beam, the extra beam")
    from instructblip_jax.datasets.prepare import beam

    monkeypatch.setattr(shards, "SMALLEST", 16)
    source = write_source(tmp_path / "s", 120, bad=7)
    options = shards.Options(log=lambda line: None)
    run = beam.runner("--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_threading")
    shards.write(tmp_path / "beam", "own", splits(source), options, run=run)
    prepare(source, tmp_path / "own", 1)
    assert tree(directory_of(tmp_path / "beam", "own")) == tree(directory_of(tmp_path / "own", "own"))
