"""A model that is spread over two processes is written by both, completely or not at all, tensor by tensor."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import toys
from worlds import without_gloo

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert import save
from instructblip_jax.convert.shards import INDEX
from instructblip_jax.run.checkpoint import weights_sha256

SHARD = 10_000

JOB = f"""
import sys
import jax

address, index, source, out = sys.argv[1:]
index = int(index)
jax.distributed.initialize(address, 2, index)
from pathlib import Path
import numpy as np
import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert import save, shared_directory, write
from instructblip_jax.run.checkpoint import weights_sha256

out = Path(out)
model = ib.from_pretrained(source, ib.make_mesh(1, -1, 1), "float32", trainable="vision")
model.train = {{path: x + 1 for path, x in model.train.items()}}
spread = sum(not x.is_fully_addressable and not x.is_fully_replicated for x in model.train.values())
print("spread", spread > 20, weights_sha256(model.train))

whole, mine, largest = write._write, [], [0]
def noted(path, tensors, *rest):
    mine.append(path.name)
    whole(path, tensors, *rest)
def failing(path, tensors, *rest):
    if index == 1:
        raise OSError(28, "No space left on device")
    whole(path, tensors, *rest)

write._write = noted
model.save_pretrained(out / "both", max_shard_bytes={SHARD})
print("wrote", *mine)

write._write = failing
try:
    model.save_pretrained(out / "failed", max_shard_bytes={SHARD})
except (OSError, ValueError) as error:
    print("failed", error)

write._write = noted
mine.clear()
if index == 1:
    shared_directory.Path = lambda path: out / "not here"
model.save_pretrained(out / "alone", max_shard_bytes={SHARD})
print("wrote", len(mine))
try:
    model.save_pretrained(out / "both", max_shard_bytes={SHARD})
except ValueError as error:
    print("refused", error)

shared_directory.Path = Path
model = ib.from_pretrained(source, ib.make_mesh(1, -1, 1), "float32", trainable="qformer_and_lora", lora={{"rank": 8}})
model.train = {{path: x + 1 for path, x in model.train.items()}}
model.save_pretrained(out / "merged", max_shard_bytes={SHARD})
trained = save.lazy(model.family.rules_for(model.directory, model.config), model.train)
families.export_adapter(out / "adapter", model.directory, model.config, trained, "base")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The source, the directory in which two processes wrote, and what each of them said."""
    root = tmp_path_factory.mktemp("exports")
    source, out = toys.write_model(root / "source"), root / "out"
    out.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    env = os.environ | {"PYTHONPATH": str(toys.ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    options = {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen([sys.executable, "-c", JOB, address, str(index), str(source), str(out)], **options)
        for index in range(2)
    ]
    ended = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    return source, out, [without_gloo(said).splitlines() for said, _ in ended]


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_each_writes_its_share_and_it_is_what_one_process_writes(written, tmp_path):
    source, out, said = written
    model = ib.from_pretrained(source, dtype="float32", trainable="vision")
    model.train = {path: x + 1 for path, x in model.train.items()}
    model.save_pretrained(tmp_path / "one", max_shard_bytes=SHARD)
    assert files(out / "both") == files(tmp_path / "one")
    shares = [lines[1].split()[1:] for lines in said]
    weights = sorted(path.name for path in (out / "both").glob("*.safetensors"))
    assert weights[0::2] == shares[0]
    assert weights[1::2] == shares[1]
    assert len(shares[1]) > 2


def test_adapters_are_merged_or_written_by_both_too(written, tmp_path):
    source, out, _ = written
    model = ib.from_pretrained(source, dtype="float32", trainable="qformer_and_lora", lora={"rank": 8})
    model.train = {path: x + 1 for path, x in model.train.items()}
    model.save_pretrained(tmp_path / "merged", max_shard_bytes=SHARD)
    trained = save.lazy(model.family.rules_for(model.directory, model.config), model.train)
    families.export_adapter(tmp_path / "adapter", model.directory, model.config, trained, "base")
    for name in ("merged", "adapter"):
        assert files(out / name) == files(tmp_path / name)


def test_the_digest_of_what_was_trained_is_that_of_one_process(written):
    source, _, said = written
    model = ib.from_pretrained(source, dtype="float32", trainable="vision")
    want = weights_sha256({path: x + 1 for path, x in model.train.items()})
    assert [lines[0] for lines in said] == [f"spread True {want}"] * 2


def test_an_error_of_one_ends_both_and_leaves_nothing(written):
    _, out, said = written
    assert said[1][2] == "failed [Errno 28] No space left on device"
    assert said[0][2] == "failed process 1 of this job failed: [Errno 28] No space left on device"
    assert sorted(path.name for path in out.iterdir()) == ["adapter", "alone", "both", "merged"]
    for lines in said:
        assert lines[4].startswith("refused")
        assert "both: is not empty" in lines[4]


def test_a_process_that_does_not_see_the_directory_has_no_share(written):
    _, out, said = written
    assert [lines[3] for lines in said] == [f"wrote {len(list(out.glob('alone/*.safetensors')))}", "wrote 0"]
    assert files(out / "alone") == files(out / "both")
    assert (out / "both" / INDEX).is_file()
