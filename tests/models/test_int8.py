"""int8 language models: how near a byte a weight comes, and that all else stays as it is."""

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import instructblip_jax as ib
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.load import load
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.layers.int8 import LEVELS, Int8Linear, quantize
from instructblip_jax.systems.build import abstract

LOGITS, GRADIENT = 0.025, 0.05
"""Largest errors allowed, root mean squares relative to the truth's own. Measured: logits 0.013 (T5) and 0.016 (LLaMA),
gradients 0.027 and 0.029, the loss 0.001."""


def test_each_column_is_rounded_to_its_own_steps():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((33, 7)).astype(np.float32) * np.logspace(-6, 3, 7, dtype=np.float32)
    kernel[:, 3] = 0
    rounded, scale = quantize(kernel)
    assert (rounded.dtype, scale.dtype) == (np.int8, np.float32)
    assert scale.shape == (7,)
    assert (np.abs(kernel - rounded * scale) <= 0.5001 * scale).all()
    assert (np.abs(rounded).max(axis=0) == np.where(np.arange(7) == 3, 0, LEVELS)).all()  # the whole range is used
    assert (scale > 0).all()
    again, same = quantize(rounded * scale)
    np.testing.assert_array_equal(again, rounded)
    np.testing.assert_allclose(same, np.where(np.arange(7) == 3, 1, scale), rtol=1e-6)


def test_half_precision_files_are_quantized_in_float32():
    import ml_dtypes

    kernel = np.random.default_rng(1).standard_normal((20, 5)).astype(ml_dtypes.bfloat16)
    for got, want in zip(quantize(kernel), quantize(kernel.astype(np.float32)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_the_product_with_the_dequantised_kernel(bias, dtype):
    rng = np.random.default_rng(2)
    rounded, scale = quantize(rng.standard_normal((24, 10)).astype(np.float32))
    layer = Int8Linear(24, 10, ("embed", "mlp"), bias=bias, dtype=jnp.dtype(dtype), out_dtype=jnp.float32)
    layer.kernel[...], layer.kernel_scale[...] = jnp.asarray(rounded), jnp.asarray(scale)
    added = np.zeros(10, np.float32)
    if bias:
        added = rng.standard_normal(10).astype(np.float32)
        layer.bias[...] = jnp.asarray(added)
    x = jnp.asarray(rng.standard_normal((2, 3, 24)), dtype)
    kernel = rounded * scale
    want = np.asarray(x, np.float32) @ kernel + added
    got = layer(x)
    assert got.dtype == jnp.float32
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(got, want, atol=tolerance, rtol=0)
    weights = rng.standard_normal((2, 3, 10)).astype(np.float32)
    gradient = jax.grad(lambda x: (layer(x) * weights).sum())(x)
    assert gradient.dtype == x.dtype
    np.testing.assert_allclose(np.asarray(gradient, np.float32), weights @ kernel.T, atol=20 * tolerance, rtol=0)
    assert nnx.state(layer)["kernel"][...].dtype == jnp.int8


@pytest.fixture(scope="module", params=["t5", "llama"])
def models(request, tmp_path_factory):
    """family, batch, and a model in float32 and with an int8 language model."""
    raw = checkpoints.config_json(sizes=checkpoints.MINI, family=request.param)
    directory = checkpoints.write(tmp_path_factory.mktemp("model"), raw, seed=4)
    plain, small = (ib.InstructBlip.from_pretrained(directory, dtype="float32", int8=int8) for int8 in (False, True))
    return request.param, checkpoints.batch(raw, seed=4), plain, small


def matrices(model) -> dict:
    """The language model's kernels; its embedding and T5's table of distances are no factors of a product."""
    return {path: x for path, x in model.frozen.items() if path.startswith("llm/") and path.endswith("/kernel")}


def test_the_matrices_take_a_byte_a_weight_and_nothing_else_changes(models):
    family, _, plain, small = models
    kernels = matrices(small)
    assert kernels.keys() == matrices(plain).keys()
    assert len(kernels) == {"t5": 7 + 11 + 1, "llama": 7 + 1}[family]
    scales = {f"{path}_scale" for path in kernels}
    assert small.frozen.keys() - plain.frozen.keys() == scales
    for path, kernel in kernels.items():
        assert kernel.dtype == jnp.int8
        scale = small.frozen[f"{path}_scale"]
        assert scale.dtype == jnp.float32
        layers = [(kernel, scale, plain.frozen[path])]
        if kernel.ndim == 3:
            layers = list(zip(*layers[0], strict=True))
        for rounded, own, want in layers:
            for got, expected in zip((rounded, own), quantize(np.asarray(want)), strict=True):
                np.testing.assert_array_equal(got, expected)
    rest = plain.frozen.keys() - kernels.keys()
    assert checkpoints.leaves_equal({k: plain.frozen[k] for k in rest}, {k: small.frozen[k] for k in rest})
    assert checkpoints.leaves_equal(plain.train, small.train)
    assert {x.dtype.name for x in small.train.values()} == {"float32"}
    half = sum(2 * x.size for x in kernels.values())  # in bfloat16
    assert sum(x.nbytes for x in kernels.values()) == half / 2
    assert sum(small.frozen[path].nbytes for path in scales) < 0.13 * half  # the larger the matrix, the less


def test_logits_and_gradients_are_near_those_of_float32(models):
    _, batch, plain, small = models
    truth, got = np.asarray(plain(batch)), np.asarray(small(batch))
    assert got.dtype == np.float32
    error = np.sqrt(np.square(got - truth).mean() / np.square(truth).mean())
    assert 1e-4 < error < LOGITS
    (value, grads), (want, true_grads) = (ib.gradients(model, batch) for model in (small, plain))
    assert abs(float(value) - float(want)) < 0.01 * float(want)
    assert grads.keys() == true_grads.keys()
    assert not any(name.startswith("language_model") for name in grads)
    flat, true = (np.concatenate([np.ravel(g[name]) for name in g]) for g in (grads, true_grads))
    assert np.linalg.norm(flat - true) < GRADIENT * np.linalg.norm(true)
    assert float(grads["query_tokens"].std()) > 0


def test_eight_devices_load_the_same_bytes(models):
    *_, small = models
    config = hf_instructblip.read_config(small.directory / "config.json")
    _, train, frozen = abstract(config, mesh=make_mesh(2, 2, 2), dtype="float32", trainable="qformer", int8=True)
    arrays = load(hf_instructblip.rules(config), train | frozen, open_shards(small.directory))
    assert checkpoints.leaves_equal(checkpoints.host(arrays), checkpoints.host(small.train | small.frozen))
    split = {path for path in matrices(small) if not arrays[path].sharding.is_fully_replicated}
    assert split == matrices(small).keys()
    for path in split:  # all are cut along their columns, and scales lie where their columns lie
        columns = arrays[path].sharding.spec[-1]
        assert columns is not None
        assert arrays[f"{path}_scale"].sharding.spec[-1] == columns
