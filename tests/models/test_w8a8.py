"""Language models that multiply in int8: the products, their gradients, on one device and on eight, and a model of each
kind."""

import json

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.layers.int8 import LEVELS, Int8Linear, int8_product, quantize, weights_product
from instructblip_jax.plan import flops, tracing


def counted(rows: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """rows [N, D] rounded row by row, times int8 kernel [D, M], in whole numbers."""
    steps = np.abs(rows).max(axis=1, keepdims=True) / np.float32(LEVELS)
    return (np.rint(rows / steps).astype(np.int64) @ kernel.astype(np.int64)) * steps


@pytest.fixture(scope="module")
def operands():
    """rows float32 [12, 48] of very different sizes, kernel int8 [48, 20], its scales [20] and weights [12, 20]."""
    rng = np.random.default_rng(0)
    sizes = np.logspace(-4, 3, 12, dtype=np.float32)[:, None]
    rows = rng.standard_normal((12, 48)).astype(np.float32) * sizes
    kernel, scale = quantize(rng.standard_normal((48, 20)).astype(np.float32))
    return rows, kernel, scale, rng.standard_normal((12, 20)).astype(np.float32) / sizes


def test_the_product_is_counted_in_whole_numbers(operands):
    rows, kernel, scale, _ = operands
    np.testing.assert_allclose(int8_product(rows, kernel, scale), counted(rows, kernel) * scale, rtol=1e-6)
    near = np.abs(counted(rows, kernel) * scale - rows @ (kernel * scale)).max(axis=1) / np.abs(rows).max(axis=1)
    assert (near < 0.1).all()  # each row has steps of its own


def test_the_gradient_passes_straight_through(operands):
    rows, kernel, scale, weights = operands
    gradient = jax.grad(lambda rows: (int8_product(rows, kernel, scale) * weights).sum())(rows)
    want = jax.grad(lambda rows: (weights_product(rows, kernel, scale) * weights).sum())(rows)
    np.testing.assert_array_equal(gradient, want)
    np.testing.assert_allclose(want, weights * scale @ kernel.T.astype(np.float32), rtol=1e-3)


def test_the_layer_multiplies_in_int8(operands):
    rows, kernel, scale, _ = operands
    layer = Int8Linear(48, 20, ("embed", "mlp"), bias=True, w8a8=True, dtype=jnp.bfloat16)
    layer.kernel[...], layer.kernel_scale[...] = jnp.asarray(kernel), jnp.asarray(scale)
    layer.bias[...] = jnp.arange(20.0)
    x = jnp.asarray(rows, jnp.bfloat16)
    want = counted(np.asarray(x, np.float32), kernel) * scale + np.arange(20)
    got = layer(x.reshape(3, 4, 48))
    assert (got.dtype, got.shape) == (jnp.bfloat16, (3, 4, 20))
    np.testing.assert_allclose(np.asarray(got, np.float32).reshape(12, 20), want, rtol=2**-8)
    assert "(tensor<12x48xi8>, tensor<48x20xi8>) -> tensor<12x20xi32>" in jax.jit(lambda x: layer(x)).lower(x).as_text()


def test_rows_of_zeros_stay_zero_and_what_is_not_finite_shows(operands):
    rows, kernel, scale, _ = operands
    rows = rows.copy()
    rows[1], rows[2, 5], rows[3, 7] = 0, np.nan, np.inf
    out = np.asarray(int8_product(rows, kernel, scale))
    assert (out[1] == 0).all()
    assert not np.isfinite(out[2:4]).any()
    assert np.isfinite(np.delete(out, [2, 3], axis=0)).all()


def test_a_row_in_shards_has_the_steps_of_the_whole_row(operands):
    rows, kernel, scale, weights = operands
    mesh = make_mesh(2, 2, 2)

    def both(rows, kernel, scale):
        out, back = jax.vjp(lambda rows: int8_product(rows, kernel, scale), rows)
        return out, back(weights)[0]

    def put(x, *names):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*names)))

    alone = jax.jit(both)(rows, kernel, scale)
    sharded = jax.jit(both)(put(rows, "data", "tensor"), put(kernel, "tensor", "fsdp"), put(scale, "fsdp"))
    np.testing.assert_array_equal(sharded[0], alone[0])
    np.testing.assert_allclose(sharded[1], alone[1], rtol=1e-3)  # sums in another order


def int8_products(jaxpr) -> int:
    """The number of products of two int8 matrices in a trace, each layer once."""
    here = sum(
        x.primitive.name == "dot_general" and all(y.aval.dtype == jnp.int8 for y in x.invars) for x in jaxpr.eqns
    )
    return here + sum(int8_products(part) for x in jaxpr.eqns for part in flops.parts(x))


@pytest.mark.parametrize(
    ("kind", "family", "kernels"), [("instructblip", "t5", 19), ("instructblip", "llama", 8), ("blip-2", "opt", 6)]
)
def test_all_matrices_of_a_language_model_multiply_in_int8(tmp_path, kind, family, kernels):
    raw = checkpoints.config_json(kind, sizes=checkpoints.MINI, family=family)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = families.read_config(tmp_path)
    counts = [
        int8_products(tracing.gradients(tracing.describe(config, int8=int8), config.batch(2, 5, 4)))
        for int8 in (True, "w8a8")
    ]
    assert counts == [0, kernels]


def test_gradients_are_near_those_of_float32(tmp_path):
    raw = checkpoints.config_json("blip-2", sizes=checkpoints.MINI, family="opt", num_hidden_layers=1)
    checkpoints.write(tmp_path, raw, seed=4)
    batch, found = checkpoints.batch(raw, seed=4), []
    for int8 in (False, "w8a8"):
        value, grads = ib.gradients(ib.Model.from_pretrained(tmp_path, dtype="float32", int8=int8), batch)
        found.append((float(value), np.concatenate([np.ravel(grads[name]) for name in sorted(grads)])))
    (want, true), (value, got) = found
    assert abs(value - want) < 0.02 * want
    # Measured in the same way: 0.037 for OPT, 0.022 for LLaMA, 0.041 for T5 (weights alone: 0.029 and 0.027).
    assert 1e-4 < np.linalg.norm(got - true) / np.linalg.norm(true) < 0.06


def test_a_value_without_a_meaning_is_refused(tmp_path):
    checkpoints.write(tmp_path, checkpoints.config_json(sizes=checkpoints.MINI))
    with pytest.raises(ValueError, match="int8 'w4' is unknown; expected one of False, True, w8a8"):
        ib.Model.from_pretrained(tmp_path, int8="w4")
