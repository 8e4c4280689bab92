"""What a compiled program holds besides its arguments: the weights must not be there a second time."""

import json

import checkpoints
import jax
import jax.numpy as jnp
import pytest

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.families import FAMILIES
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.model import Model
from instructblip_jax.systems.build import abstract


@pytest.mark.parametrize("int8", [False, True])
def test_a_narrow_model_is_widened_a_layer_at_a_time(tmp_path, int8):
    """XLA on CPU multiplies in float32; left alone it keeps all layers of a stack in it, which is twice the weights."""
    text = {"d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048, "num_layers": 24, "num_decoder_layers": 24}
    raw = checkpoints.config_json(**text)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config, mesh = hf_instructblip.read_config(tmp_path / "config.json"), single_device_mesh()
    graph, train, frozen = abstract(config, mesh=mesh, dtype="bfloat16", trainable="qformer", int8=int8)
    model = Model(config, graph, train, frozen, mesh, tmp_path, FAMILIES["instructblip"])
    batch = {name: jax.ShapeDtypeStruct(x.shape, jnp.dtype(x.dtype)) for name, x in checkpoints.batch(raw).items()}
    with jax.set_mesh(mesh):
        program = model._logits.lower(train, frozen, batch).compile()
    weights = sum(x.size * x.dtype.itemsize for x in frozen.values())
    assert program.memory_analysis().temp_size_in_bytes < 0.5 * weights
