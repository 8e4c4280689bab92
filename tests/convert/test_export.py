"""Export: the source's tensors with the trained ones replaced, whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import checkpoints
import ml_dtypes
import numpy as np
import pytest
import toys
from checkpoints import export
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.shards import INDEX, open_shards

TRAINED = ("query_tokens", "qformer.", "language_projection.")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model directory with tokenizers, whose frozen tensors are stored in bfloat16."""
    directory = toys.write_model(tmp_path_factory.mktemp("source"))
    tensors = load_file(directory / "model.safetensors")
    for name in tensors:
        if not name.startswith(TRAINED):
            tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    save_file(tensors, directory / "model.safetensors")
    (directory / "pytorch_model.bin.index.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def model(source):
    """The model after some training: every trained array has moved."""
    model = ib.InstructBlip.from_pretrained(source, dtype="float32", trainable="original")
    rng = np.random.default_rng(0)
    model.train = {path: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32) for path, x in model.train.items()}
    return model


def read(directory: Path) -> dict[str, np.ndarray]:
    tensors = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def test_transformers_loads_what_was_written_and_answers_as_we_do(model, source, tmp_path):
    pytest.importorskip("torch")
    import reference

    model.save_pretrained(tmp_path / "out", max_shard_bytes=20_000)
    raw = json.loads((source / "config.json").read_text())
    batch = checkpoints.batch(raw, seed=1)
    theirs = reference.load(tmp_path / "out")  # fails for a missing or an unexpected key
    want = reference.answers(theirs, reference.inputs(theirs, batch))["logits"]
    got = np.asarray(model(batch))
    assert np.abs(got - want).max() < 1e-5
    untouched = ib.InstructBlip.from_pretrained(source, dtype="float32", trainable="original")
    assert np.abs(np.asarray(untouched(batch)) - want).max() > 1e-2
    again = ib.InstructBlip.from_pretrained(tmp_path / "out", dtype="float32", trainable="original")
    assert checkpoints.leaves_equal(checkpoints.host(again.train), checkpoints.host(model.train))
    np.testing.assert_array_equal(np.asarray(again(batch)), got)


@pytest.mark.parametrize("max_shard_bytes", [10_000, 10**9])
def test_trained_tensors_are_ours_and_all_others_are_the_stored_bits(model, source, tmp_path, max_shard_bytes):
    model.save_pretrained(tmp_path / "new" / "out", max_shard_bytes=max_shard_bytes)
    out = tmp_path / "new" / "out"
    before, after = read(source), read(out)
    trained = {name: x.copy() for name, x in save.tensors(hf_instructblip.rules(model.config), model.train)}
    assert before.keys() == after.keys()
    assert {name for name in before if name.startswith((*TRAINED, "vision_model.post_layernorm."))} == set(trained)
    assert checkpoints.leaves_equal({name: after[name] for name in trained}, trained)
    rest = before.keys() - trained.keys()
    assert {before[name].dtype for name in rest} == {np.dtype(ml_dtypes.bfloat16)}
    assert checkpoints.leaves_equal({name: before[name] for name in rest}, {name: after[name] for name in rest})
    files = sorted(path.name for path in out.glob("*.safetensors"))
    if max_shard_bytes == 10**9:
        assert files == ["model.safetensors"]
        assert not (out / INDEX).exists()
    else:
        count = len(files)
        assert count > 3
        assert files == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
        index = json.loads((out / INDEX).read_text())
        assert index["weight_map"] == {
            name: path.name for path in out.glob("*.safetensors") for name in load_file(path)
        }
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in after.values())
        for path in out.glob("*.safetensors"):
            tensors = load_file(path)
            assert len(tensors) == 1 or sum(x.nbytes for x in tensors.values()) <= max_shard_bytes


def test_all_other_files_are_copied_but_no_foreign_index(model, source, tmp_path):
    model.save_pretrained(tmp_path / "out")

    def files(directory):
        return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    before, after = files(source), files(tmp_path / "out")
    assert before.pop("pytorch_model.bin.index.json")
    assert "qformer_tokenizer/tokenizer.json" in after
    assert before.keys() == after.keys()
    del before["model.safetensors"], after["model.safetensors"]
    assert before == after
    text = "which digit ?"
    ours, theirs = ib.Processor.from_pretrained(tmp_path / "out"), ib.Processor.from_pretrained(source)
    np.testing.assert_array_equal(ours.encode(text)["qformer_input_ids"], theirs.encode(text)["qformer_input_ids"])


def test_old_files_lose_buffers_and_aliases_and_get_no_head(tmp_path):
    raw = checkpoints.config_json(sizes=checkpoints.MINI)
    old = checkpoints.write(tmp_path / "old", raw, seed=5, legacy=True, tied=True)
    export(tmp_path / "out", old, {})
    before, after = read(old), read(tmp_path / "out")
    gone = {name for name in before if "embed_tokens" in name or "position_ids" in name or "EncDec" in name} - {
        name for name in before if ".EncDecAttention." in name and "relative" not in name
    }
    assert len(gone) == 4
    assert after.keys() == before.keys() - gone
    assert "language_model.lm_head.weight" not in after
    assert checkpoints.leaves_equal(after, {name: before[name] for name in after})


def test_an_alias_that_is_the_only_copy_stays(tmp_path):
    directory = checkpoints.write(tmp_path / "in", checkpoints.config_json(sizes=checkpoints.MINI), seed=4)
    tensors = load_file(directory / "model.safetensors")
    alias = "language_model.decoder.embed_tokens.weight"
    tensors[alias] = tensors.pop("language_model.shared.weight")
    save_file(tensors, directory / "model.safetensors")
    export(tmp_path / "out", directory, {})
    assert checkpoints.leaves_equal(read(tmp_path / "out"), tensors)


def test_a_part_of_a_fused_tensor_is_refused(model):
    arrays = {path: x for path, x in (model.train | model.frozen).items() if "/attn/v/" not in path}
    with pytest.raises(ValueError, match=r"self_attn\.qkv\.bias.*self_attn\.qkv\.weight"):
        dict(save.tensors(hf_instructblip.rules(model.config), arrays))


def test_tensors_of_another_model_are_refused_by_name(source, tmp_path):
    trained = {"query_tokens": np.zeros((1, 5, 3), np.float32), "qformer.nothing": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=r"query_tokens \[1, 5, 3\].*qformer\.nothing"):
        export(tmp_path / "out", source, trained)
    assert not list(tmp_path.iterdir())


# The place


def test_a_place_in_use_is_refused_and_left_as_it_is(source, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("chapter one")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(source)
    cases = {
        tmp_path / "used": "not empty",
        tmp_path / "file": "not a directory",
        source: "is the source model",
        tmp_path / "link": "is the source model",
        Path("gs://bucket/out"): "local",
    }
    for out, words in cases.items():
        with pytest.raises(ValueError, match=words) as caught:
            export(out, source, {})
        assert str(out) in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link", "thesis.tex", "used"]
    assert sorted(read(source)) == sorted(open_shards(source).shapes)


def test_an_empty_directory_is_filled_and_readable_by_all(source, tmp_path):
    (tmp_path / "out").mkdir()
    export(tmp_path / "out", source, {})
    assert hf_instructblip.read_config(tmp_path / "out" / "config.json")
    assert (tmp_path / "out").stat().st_mode & 0o777 == tmp_path.joinpath(
        "out", "qformer_tokenizer"
    ).stat().st_mode & 0o777
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_parent_that_is_no_directory(source, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="cannot be written") as caught:
        export(tmp_path / "file" / "out", source, {})
    assert str(tmp_path / "file" / "out") in str(caught.value)


def test_too_small_a_disk_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    import shutil

    small = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    with pytest.raises(OSError, match=r"out: the disk is full.*needed"):
        export(tmp_path / "out", source, {})
    assert not list(tmp_path.iterdir())


LIMITED = """
import resource, sys
from pathlib import Path
from instructblip_jax.families import export, read_config
source = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    export(sys.argv[2], source, read_config(source), {})
except OSError as error:
    print(error)
"""


def test_a_disk_that_fills_up_leaves_nothing(source, tmp_path):
    done = python(LIMITED, source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'out'}: the disk is full" in done.stdout
    assert not list(tmp_path.iterdir())


# SIGKILL

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from instructblip_jax.convert import write as files
from instructblip_jax.families import export, read_config

source, out = Path(sys.argv[1]), Path(sys.argv[2])
EVENTS = {"open", "os.rename", "os.mkdir", "shutil.copyfile", "os.listdir", "os.rmdir"}

def die_at(event):  # between two operations on files: the audit event comes before the operation
    left = [event]
    def hook(name, args):
        if name in EVENTS:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def child(prepare):
    pid = os.fork()
    if not pid:
        prepare()
        export(out, source, read_config(source), {}, max_shard_bytes=10_000)
        os._exit(0)
    return pid

def outcome(pid):
    killed = os.waitpid(pid, 0)[1] != 0
    print("killed" if killed else "ended", int(out.exists()), flush=True)
    return killed

def slow():
    write = files._write
    files._write = lambda *args: (time.sleep(0.01), write(*args))

random.seed(int(sys.argv[3]))
for _ in range(5):
    pid = child(slow)
    time.sleep(random.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    outcome(pid)
event = 0
while not out.exists():
    outcome(child(lambda: die_at(event)))
    event += 1
"""


def test_killed_at_any_moment_nothing_looks_complete_and_a_later_export_succeeds(source, tmp_path):
    """At random times, then before each of its operations on files in turn, until one kill comes after the rename."""
    seed = int(np.random.default_rng().integers(1 << 30))
    done = python(KILLED, source, tmp_path / "out", seed)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    print(f"seed {seed}, {len(lines)} exports")
    assert len(lines) > 30
    assert set(lines[:-1]) == {"killed 0"}
    assert lines[-1] == "killed 1"  # as soon as it is there, it is whole
    assert checkpoints.leaves_equal(read(tmp_path / "out"), read(source))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # and what the dead ones left is gone


def test_what_another_export_is_writing_is_left_alone(source, tmp_path):
    from instructblip_jax.convert.new_directory import new_directory

    with new_directory(tmp_path / "out", 0) as first:
        (first / "x").write_text("x")
        export(tmp_path / "out", source, {})
        assert (first / "x").exists()
        (tmp_path / "out").rename(tmp_path / "moved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "out"]


def python(code: str, *args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=toys.ROOT, check=False)
