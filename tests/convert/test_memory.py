"""Loading needs room for the result and a few tensors, not for the checkpoint once more; writing, for a few tensors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import numpy as np
import pytest

LAYERS, WIDTH, INNER = 32, 512, 2048
MIB = 1 << 20

MEASURE = """
import os, sys
from pathlib import Path
import instructblip_jax as ib
from instructblip_jax.convert import save, write

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

small, large, out, dtype, *sizes = sys.argv[1:]
mesh = ib.make_mesh(*map(int, sizes))
def measured(run):
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    return run(), memory("VmHWM") - before

def tensors(model):
    return save.lazy(model.family.rules(model.config), model.train | model.frozen).items()

ib.InstructBlip.from_pretrained(small, mesh=mesh, dtype=dtype)  # everything imported and set up
model, peak = measured(lambda: ib.InstructBlip.from_pretrained(large, mesh=mesh, dtype=dtype))
result = sum(shard.data.nbytes for x in (model.train | model.frozen).values() for shard in x.addressable_shards)
for _, tensor in tensors(model):  # programs compiled
    tensor.read()
_, to_write = measured(lambda: write.write_shards(Path(out), tensors(model), 10**9))
print(result, peak, to_write)
"""


@pytest.fixture(scope="module")
def checkpoints_on_disk(tmp_path_factory):
    """A tiny one, and one of 500 MiB whose largest tensor has 4."""
    root = tmp_path_factory.mktemp("memory")
    small = checkpoints.write(root / "small", checkpoints.config_json(), seed=1)
    text = {"d_model": WIDTH, "d_kv": 64, "num_heads": WIDTH // 64, "d_ff": INNER, "num_layers": LAYERS}
    raw = checkpoints.config_json(**text, num_decoder_layers=1)
    large = root / "large"
    large.mkdir()
    (large / "config.json").write_text(json.dumps(raw))
    noise = np.random.default_rng(0).standard_normal(WIDTH * INNER, np.float32)
    tensors = {name: noise[: np.prod(shape)].reshape(shape) for name, shape in checkpoints.tensor_shapes(large).items()}
    assert max(x.nbytes for x in tensors.values()) == 4 * MIB
    checkpoints.save_file(tensors, large / "model.safetensors")
    return small, large


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(("dtype", "mesh"), [("bfloat16", (1, 1, 1)), ("float32", (1, 4, 2))])
def test_the_peak_is_the_result_and_a_few_tensors(checkpoints_on_disk, dtype, mesh, tmp_path):
    small, large = checkpoints_on_disk
    devices = np.prod(mesh)
    code = f"import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count={devices}'\n{MEASURE}"
    args = [sys.executable, "-c", code, str(small), str(large), str(tmp_path), dtype, *map(str, mesh)]
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}  # huge pages round sizes up
    done = subprocess.run(args, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2], env=env)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path)
    result, peak, to_write = map(int, done.stdout.split())
    print(f"{dtype} {mesh}: {result / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB, to write {to_write / MIB:.0f} MiB")
    assert result > 256 * MIB
    assert peak < result + 64 * MIB  # tensors of 4 MiB, programs of a few more; a stack of one kernel has 64 or 128
    assert to_write < 64 * MIB  # of a stack one layer
