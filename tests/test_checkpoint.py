"""Checkpoints that disks have damaged, and ones that go to another mesh; with a state of a few small arrays."""

import gc
import hashlib
import json
import random
import re
import shutil
import threading

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint.checkpoint_manager import CheckpointManager

from instructblip_jax import digests
from instructblip_jax.mesh import make_mesh, replicate
from instructblip_jax.run import checkpoint
from instructblip_jax.run.checkpoint import Checkpoints
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state

PLACE = {
    "iterator": {"next": 7, "inside": [1, {"shuffle": None}]},
    "sets": {"count": "aa", "where": "bb"},
    "window": {"loss": 2 / 3},
}
SPECS = {"qformer/kernel": PartitionSpec("fsdp", "tensor"), "qformer/bias": PartitionSpec(), "query_tokens": None}
SHAPES = {"qformer/kernel": (16, 12), "qformer/bias": (12,), "query_tokens": (4, 6, 2)}


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Readings that failed leave tasks whose finalizers log. Python 3.11 fails if that happens while it parses."""
    yield
    gc.collect()


def state_of(seed: int, mesh):
    """A state whose every number depends on ``seed``."""
    rng = np.random.default_rng(seed)
    train = {
        name: jax.device_put(
            rng.standard_normal(SHAPES[name], np.float32), NamedSharding(mesh, spec or PartitionSpec())
        )
        for name, spec in SPECS.items()
    }
    state = init_state(train, optimizer(OptimConfig(clip_norm=1.0), 10))
    return replicate(mesh, state | {"opt": jax.tree.map(lambda x: x + seed, state["opt"])})


def same(left, right) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(2, 2, 2)


@pytest.fixture(scope="module")
def whole(mesh, tmp_path_factory):
    """A directory with the checkpoints of steps 1, 2 and 3."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    checkpoints = Checkpoints(epath.Path(directory), keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step, mesh), PLACE, "towers")
    checkpoints.close()
    return directory


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "checkpoints")


def opened(directory) -> Checkpoints:
    return Checkpoints(epath.Path(directory), keep=3)


# Digests


def test_digests_do_not_depend_on_where_an_array_lies(mesh):
    state = dict(state_of(5, mesh))
    on_host = jax.tree.map(np.asarray, state)
    assert digests.of_devices(state) == digests.of_host(on_host)
    assert digests.of_devices(state) == digests.of_devices(dict(state_of(5, make_mesh(4, 1, 1, jax.devices()[:4]))))
    halves = {"a": np.arange(7, dtype=np.float16), "b": np.float32(3.0).reshape(())}
    assert digests.of_devices(jax.tree.map(jax.numpy.asarray, halves)) == digests.of_host(halves)


def test_digests_see_every_bit_and_every_swap():
    x = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    right = digests.of_host({"x": x})
    for bit in range(32):
        y = x.copy()
        y.view(np.uint32)[bit * 9] ^= np.uint32(1 << bit)
        assert digests.of_host({"x": y}) != right
    for n in range(1, 300):
        y = x.copy()
        y[[0, n]] = y[[n, 0]]
        assert digests.of_host({"x": y}) != right
    assert digests.of_host({"x": np.append(x, np.float32(1e-30))}) != right


# Damage

FILES = ("data/metadata", "source/metadata", "state/_METADATA", "state/manifest.ocdbt", "state/d/*")


@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_skipped(copy, mesh, capsys, file, damage):
    (path,) = (copy / "3").glob(file)
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    checkpoints = opened(copy)
    assert checkpoints.newest() == 2
    assert same(checkpoints.restore(2, state_of(0, mesh), "towers"), state_of(2, mesh))
    assert checkpoints.place(2) == PLACE
    told = capsys.readouterr().out
    assert re.fullmatch(rf"{re.escape(str(copy))}: skipped step 3 \(.+\); going back to 2\n", told), told
    checkpoints.close()


@pytest.mark.parametrize("file", FILES)
def test_a_bit_that_fell_is_seen_or_changes_nothing(copy, mesh, capsys, file):
    """It may fall where nothing is read; what is taken for step 3 is step 3 in every number."""
    (path,) = (copy / "3").glob(file)
    seed = random.SystemRandom().randrange(1 << 30)
    rng, content = random.Random(seed), bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    checkpoints = opened(copy)
    step = checkpoints.newest()
    assert step in (2, 3), seed
    assert ("skipped step 3" in capsys.readouterr().out) == (step == 2), seed
    assert same(checkpoints.restore(step, state_of(0, mesh), "towers"), state_of(step, mesh)), seed
    assert checkpoints.place(step) == PLACE, seed
    checkpoints.close()


def test_a_bit_of_an_array_and_one_of_the_position_are_seen(copy, capsys):
    """Where it is certain that something is read: in the middle of the largest file of numbers, and in a digit."""
    path = max((copy / "3" / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path = copy / "2" / "data" / "metadata"
    path.write_bytes(path.read_bytes().replace(b"7", bytes([ord("7") ^ 1])))
    checkpoints = opened(copy)
    assert checkpoints.newest() == 1
    assert re.search(r"skipped step 3 \(.+\); step 2 \(its data position .+\)", capsys.readouterr().out)
    checkpoints.close()


def test_a_checkpoint_is_read_some_arrays_at_a_time(copy, monkeypatch):
    """One that a host has no room for is judged as any other."""
    checkpoints = opened(copy)
    at_once = checkpoints._digests(3, None)
    sizes, of_host = [], checkpoint.digests.of_host
    monkeypatch.setattr(checkpoint, "_READ_BYTES", 300)
    monkeypatch.setattr(checkpoint.digests, "of_host", lambda tree: (sizes.append(bytes_of(tree)), of_host(tree))[1])
    assert checkpoints._digests(3, None) == at_once
    assert len(sizes) > 3
    assert max(sizes) <= max(300, *(x.nbytes for x in jax.tree.leaves(state_of(3, make_mesh(2, 2, 2)))))
    checkpoints.close()


def bytes_of(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_a_missing_item_and_two_damaged_checkpoints(copy, mesh, capsys):
    shutil.rmtree(copy / "3" / "state")
    (copy / "2" / "data" / "metadata").write_text("{}")
    checkpoints = opened(copy)
    assert checkpoints.newest() == 1
    assert re.search(r"skipped step 3 \(.+\); step 2 \(.+\); going back to 1", capsys.readouterr().out)
    checkpoints.close()


def test_numbers_that_changed_although_every_file_can_be_read(copy, mesh, capsys):
    """As where a disk gives back another file's block: the checkpoint of another state under this step's name."""
    shutil.rmtree(copy / "3" / "state")
    shutil.copytree(copy / "1" / "state", copy / "3" / "state")
    checkpoints = opened(copy)
    assert checkpoints.newest() == 2
    assert "arrays differ from what was saved" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"step 3 .*arrays differ.*choose another of the steps"):
        checkpoints.check(3)
    checkpoints.close()


def test_another_position_in_the_data_is_damage(copy, capsys):
    path = copy / "3" / "data" / "metadata"
    path.write_text(path.read_text().replace("7", "8"))
    checkpoints = opened(copy)
    assert checkpoints.newest() == 2
    assert "data position" in capsys.readouterr().out
    checkpoints.close()


def test_where_all_are_damaged_there_is_one_error_and_nothing_is_deleted(copy):
    for step in (1, 2, 3):
        (copy / str(step) / "state" / "manifest.ocdbt").write_bytes(b"")
    before = sorted(path for path in copy.rglob("*"))
    checkpoints = opened(copy)
    with pytest.raises(
        ValueError, match=r"every checkpoint is damaged: step 3 .* step 2 .* step 1 .*another --workdir"
    ):
        checkpoints.newest()
    checkpoints.close()
    assert sorted(path for path in copy.rglob("*")) == before


@pytest.mark.parametrize("step", [3, 4])
def test_a_new_checkpoint_takes_the_place_of_damaged_ones(copy, mesh, capsys, step):
    """Also of one that it does not replace: it would count among those that are kept, and be looked at first."""
    (copy / "3" / "state" / "manifest.ocdbt").unlink()
    checkpoints = opened(copy)
    assert checkpoints.newest() == 2
    assert (copy / "3").exists()
    checkpoints.save(step, state_of(step, mesh), PLACE, "towers")
    checkpoints.close()
    assert f"3: damaged, deleted; step {step} is written now" in capsys.readouterr().out
    again = opened(copy)
    assert again.steps() == [1, 2, step]
    assert again.newest() == step
    assert same(again.restore(step, state_of(0, mesh), "towers"), state_of(step, mesh))
    again.close()


def test_other_towers_are_an_error_not_damage(copy, mesh):
    checkpoints = opened(copy)
    with pytest.raises(ValueError, match="trained over another model"):
        checkpoints.restore(checkpoints.newest(), state_of(0, mesh), "others")
    checkpoints.close()


def test_other_trained_parameters_are_named(copy, mesh):
    """Resuming with another trainable set would lose what was trained, or train what was frozen."""
    checkpoints, state = opened(copy), state_of(0, mesh)
    fewer = {path: x for path, x in state["train"].items() if path != "query_tokens"}
    more = state["train"] | {"vit/post_norm/scale": state["train"]["qformer/bias"]}
    for train, words in (
        (fewer, r"only in the checkpoint: train/query_tokens\)"),
        (more, r"only in this run: train/vit/post_norm/scale\)"),
    ):
        match = rf"checkpoints/3: trained other parameters than this run would \({words}; .*config\.trainable"
        with pytest.raises(ValueError, match=match):
            checkpoints.restore_train(3, train, "towers")
        with pytest.raises(ValueError, match=match):
            checkpoints.restore(3, state | {"train": train}, "towers")
    (copy / "3" / "source" / "metadata").write_text('{"fingerprint": "towers"}')  # as a version without digests did
    with pytest.raises(ValueError, match="only in the checkpoint: train/query_tokens"):
        checkpoints.restore(3, state | {"train": fewer}, "towers")
    checkpoints.close()


def parts(directory, step: int) -> set[str]:
    """The parts of the state that a checkpoint holds."""
    tree = json.loads((directory / str(step) / "state" / "_METADATA").read_text())["tree_metadata"]
    return {entry["key_metadata"][0]["key"] for entry in tree.values()}


def test_the_memory_of_a_system_is_saved_restored_and_digested(whole, mesh, tmp_path):
    assert parts(whole, 3) == {"step", "train", "opt", "guard", "drawn"}  # as versions without memory wrote them
    rng = np.random.default_rng(5)
    arrays = {"queue": rng.standard_normal((8, 4), np.float32), "copy/qformer/bias": np.ones(12, np.float32)}
    state = state_of(1, mesh) | {"memory": replicate(mesh, arrays)}
    empty = state_of(0, mesh) | {"memory": replicate(mesh, jax.tree.map(np.zeros_like, arrays))}
    checkpoints = opened(tmp_path / "checkpoints")
    checkpoints.save(1, state, PLACE, "towers")
    checkpoints.close()
    assert parts(tmp_path / "checkpoints", 1) == {*parts(whole, 3), "memory"}
    saved = json.loads((tmp_path / "checkpoints" / "1" / "source" / "metadata").read_text())["digests"]
    assert {name for name in saved if name.startswith("memory/")} == {"memory/queue", "memory/copy/qformer/bias"}
    again = opened(tmp_path / "checkpoints")
    assert again.newest() == 1
    restored = again.restore(1, empty, "towers")
    assert restored.keys() == state.keys()
    assert same(restored, state)
    for memory, words in (({}, "only in the checkpoint"), (empty["memory"] | {"more": 0}, "only in this run")):
        with pytest.raises(ValueError, match=f"{words}: memory/"):
            again.restore(1, empty | {"memory": memory}, "towers")
    again.close()


def test_only_the_trained_parameters_are_judged_where_only_they_are_read(copy, mesh, capsys):
    checkpoints = opened(copy)
    assert checkpoints.newest(only="train") == 3
    train = checkpoints.restore_train(3, state_of(0, mesh)["train"], "towers")
    assert same(train, state_of(3, mesh)["train"])
    checkpoints.close()
    (copy / "3" / "state" / "manifest.ocdbt").unlink()
    checkpoints = opened(copy)
    assert checkpoints.newest(only="train") == 2
    checkpoints.close()


def test_checkpoints_from_before_digests_are_read(copy, mesh):
    (copy / "3" / "source" / "metadata").write_text('{"fingerprint": "towers"}')
    checkpoints = opened(copy)
    assert checkpoints.newest() == 3
    assert same(checkpoints.restore(3, state_of(0, mesh), "towers"), state_of(3, mesh))
    checkpoints.close()


def test_a_checkpoint_knows_its_data(copy, capsys):
    checkpoints = opened(copy)
    checkpoints.check_sets(3, {"count": "aa", "where": "bb"})
    checkpoints.check_sets(3, {"where": "bb"})
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"checkpoints/3: trained on other records than where holds now; .*--workdir$"):
        checkpoints.check_sets(3, {"count": "aa", "where": "cc"})
    checkpoints.close()


def test_a_checkpoint_of_an_earlier_version_goes_on_over_any_data_and_says_so(copy, mesh, capsys):
    """It kept the position in the data alone, and its seal is over that."""
    data, source = (copy / "3" / item / "metadata" for item in ("data", "source"))
    iterator, told = PLACE["iterator"], json.loads(source.read_text())
    data.write_text(json.dumps({"iterator": iterator}))
    content = [told["fingerprint"], told["digests"], iterator]
    told["seal"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    source.write_text(json.dumps(told))
    checkpoints = opened(copy)
    assert checkpoints.newest() == 3
    assert same(checkpoints.restore(3, state_of(0, mesh), "towers"), state_of(3, mesh))
    assert checkpoints.place(3) == {"iterator": iterator}
    assert capsys.readouterr().out == ""
    checkpoints.check_sets(3, {"count": "other"})
    assert "3: written by an earlier version, which did not record its data" in capsys.readouterr().out
    checkpoints.close()


# Other meshes


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 2, 2), (4, 1, 2)])
def test_a_checkpoint_goes_to_another_number_of_devices(copy, mesh, sizes):
    other = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    checkpoints = opened(copy)
    state = checkpoints.restore(checkpoints.newest(), state_of(0, other), "towers")
    assert same(state, state_of(3, mesh))
    assert {x.sharding.mesh for x in jax.tree.leaves(state)} == {other}
    checkpoints.close()


# Writing in the background


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, mesh, monkeypatch):
    """The commit is held up until the next step is done: a save that waited for it would never return."""
    done, finalize = threading.Event(), CheckpointManager._finalize
    monkeypatch.setattr(CheckpointManager, "_finalize", lambda *args: (done.wait(60), finalize(*args))[1])
    checkpoints = opened(tmp_path / "checkpoints")
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = state_of(1, mesh)
    checkpoints.save(1, state, PLACE, "towers")
    assert checkpoints.manager.is_saving_in_progress()
    state = jax.block_until_ready(step(state))  # and the arrays may be donated
    done.set()
    checkpoints.close()
    again = opened(tmp_path / "checkpoints")
    assert same(again.restore(again.newest(), state, "towers"), state_of(1, mesh))
    again.close()
