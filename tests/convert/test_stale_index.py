"""``model.safetensors`` beside the index, and maybe the shards, of another save: everything takes the single file."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
from checkpoints import export
from safetensors.numpy import load_file

from instructblip_jax.convert.shards import INDEX, SINGLE, open_shards, weight_files
from instructblip_jax.run.checkpoint import fingerprint


@pytest.fixture
def stale(tmp_path):
    """A directory of seed 1 as one file, in which seed 2 was saved in shards before."""
    raw = checkpoints.config_json("blip-2", checkpoints.MINI)
    directory = checkpoints.write(tmp_path / "model", raw, seed=2, shard_bytes=40_000)
    checkpoints.write(directory, raw, seed=1)
    return directory


def test_the_single_file_is_read(stale):
    shards = list(stale.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert weight_files(stale) == [stale / SINGLE]
    with pytest.warns(UserWarning, match=f"{stale}: the weights are those of {SINGLE}.*{INDEX}"):
        opened = open_shards(stale)
    np.testing.assert_array_equal(opened.read("query_tokens"), load_file(stale / SINGLE)["query_tokens"])
    (stale / SINGLE).unlink()
    assert weight_files(stale) == sorted(shards)
    old, new = open_shards(stale), checkpoints.values("query_tokens", opened.shapes["query_tokens"], 1)
    assert not np.array_equal(old.read("query_tokens"), new)


def test_the_fingerprint_is_of_what_is_read(stale, tmp_path):
    clean = tmp_path / "clean"
    clean.mkdir()
    for name in ("config.json", SINGLE):
        shutil.copy(stale / name, clean)
    assert fingerprint(stale) == fingerprint(clean)
    (stale / SINGLE).unlink()
    assert fingerprint(stale) != fingerprint(clean)


@pytest.mark.filterwarnings("ignore:.*left over from another save")
def test_an_export_holds_the_single_file_and_nothing_of_the_other_save(stale, tmp_path):
    export(tmp_path / "out", stale, {})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", SINGLE}
    assert checkpoints.leaves_equal(load_file(tmp_path / "out" / SINGLE), load_file(stale / SINGLE))
    export(tmp_path / "shards", stale, {}, max_shard_bytes=30_000)
    named = set(json.loads((tmp_path / "shards" / INDEX).read_text())["weight_map"].values())
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {"config.json", INDEX} | named
    assert not (tmp_path / "shards" / SINGLE).exists()
