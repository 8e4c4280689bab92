"""The scanned stack against a plain loop over its layers, and its rematerialisation choices."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxprs import equations

from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.models.language.t5 import EncoderBlock, T5Config
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.primitives import linear

CONFIG = T5Config(vocab_size=20, d_model=12, d_kv=5, d_ff=18, num_layers=3, num_decoder_layers=2, num_heads=2)


@pytest.fixture(scope="module")
def layers():
    rngs = nnx.Rngs(0)
    return stack.build(lambda rngs: EncoderBlock(CONFIG, dtype=jnp.float32, rngs=rngs), 3, rngs)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, 4, 12))


def test_every_layer_is_born_different_and_carries_the_layer_axis(layers):
    kernel = layers.ffn.up.kernel
    assert kernel.shape == (3, 12, 18)
    assert kernel.get_metadata()["axes"] == ("layers", "embed", "mlp")
    assert len({float(x) for x in kernel[...].sum((1, 2))}) == 3


def test_scan_is_the_loop(layers, x):
    bias = jnp.zeros((1, 2, 4, 4))
    got, _ = stack.run(layers, x, lambda block, x: (block(x, bias), None))
    graph, state = nnx.split(layers)
    for n in range(3):
        x = nnx.merge(graph, jax.tree.map(lambda leaf, n=n: leaf[n], nnx.to_pure_dict(state)))(x, bias)
    np.testing.assert_allclose(got, x, atol=2e-6)


def test_a_short_stack_on_a_cpu_has_no_scan_and_the_same_gradients(layers, x):
    """Its parameters stay stacked, and so do their gradients."""
    graph, state = nnx.split(layers)
    bias = jnp.zeros((1, 2, 4, 4))

    def loss(params, x):
        y, outputs = stack.run(nnx.merge(graph, params), x, lambda block, x: (block(x, bias), x.mean()))
        return jnp.square(y).sum() + (outputs * jnp.arange(3)).sum()

    params = nnx.to_pure_dict(state)
    want, scanned = jax.grad(loss)(params, x), jax.make_jaxpr(jax.grad(loss))(params, x)
    with jax.set_mesh(single_device_mesh()):
        got, loop = jax.jit(jax.grad(loss))(params, x), jax.make_jaxpr(jax.grad(loss))(params, x)
    names = [{equation.primitive.name for equation in equations(program)} for program in (scanned, loop)]
    assert "scan" in names[0]
    assert not {"scan", "while", "pad"} & names[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max()), want, got)


def test_each_layer_gets_its_own_input_and_returns_its_own_output(layers, x):
    inputs = {"n": jnp.arange(3.0)}
    _, outputs = stack.run(layers, x, lambda block, x, own: (x + own["n"], own["n"] * 10), inputs)
    np.testing.assert_array_equal(outputs, [0, 10, 20])


BIAS = jnp.zeros((1, 2, 4, 4))


def loss(graph, params, x, remat):
    y, _ = stack.run(nnx.merge(graph, params), x, lambda block, x: (block(x, BIAS), None), remat=remat)
    return jnp.square(y).sum()


def kept(layers, x, remat) -> int:
    """Elements kept for the gradient of x, as of frozen layers."""
    graph, state = nnx.split(layers)
    residuals = saved_residuals(lambda x: loss(graph, nnx.to_pure_dict(state), x, remat), x)
    return sum(np.prod(a.shape) for a, _ in residuals)


@pytest.mark.parametrize("remat", ["layer", "dots", "inner", "products"])
def test_rematerialisation_keeps_less_and_changes_no_gradient(layers, x, remat):
    graph, state = nnx.split(layers)
    params = nnx.to_pure_dict(state)
    want, got = (jax.grad(loss, argnums=(1, 2))(graph, params, x, name) for name in ("none", remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(a).max()), want, got)
    assert kept(layers, x, remat) < kept(layers, x, "none")


def test_what_is_kept_by_name_is_what_the_name_says(layers, x):
    """For each of 3 layers and 2 x 4 positions: q, k and v of 2 heads of 5, gate and up of 18; o of 12."""
    inner = kept(layers, x, "inner") - kept(layers, x, "layer")
    assert inner == 3 * 2 * 4 * (3 * 10 + 2 * 18)
    assert kept(layers, x, "products") - kept(layers, x, "inner") == 3 * 2 * 4 * 12


def test_a_length_limits_what_is_kept_to_shorter_sequences(layers, x):
    assert kept(layers, x, "inner:4") == kept(layers, x, "inner")
    assert kept(layers, x, "inner:3") == kept(layers, x, "layer")


def test_int8_products_are_kept_in_the_compute_type(x):
    def make(rngs):
        return linear(12, 12, ("embed", "mlp"), int8=True, dtype=jnp.bfloat16, rngs=rngs)

    layers = stack.build(make, 3, nnx.Rngs(0))
    body = lambda layer, x: (x + jnp.square(layer(x)), None)
    run = lambda x: stack.run(layers, x, body, remat="dots")[0].astype(jnp.float32).sum()
    found = [a for a, _ in saved_residuals(run, x.astype(jnp.bfloat16)) if a.shape[:1] == (3,) and 8 in a.shape]
    assert [a.dtype for a in found] == [jnp.bfloat16], found


@pytest.mark.parametrize("remat", ["none", "layer"])
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("mesh", [nullcontext, lambda: jax.set_mesh(single_device_mesh())], ids=["scan", "written_out"])
def test_groups_are_the_loop_with_a_leader_before_each(layers, x, size, mesh, remat):
    """Three layers: groups of 2 leave a smaller one, a group of 4 is never full."""
    rngs = nnx.Rngs(1)
    leaders = stack.build(lambda rngs: linear(12, 12, (None, None), dtype=jnp.float32, rngs=rngs), -(-3 // size), rngs)
    bias, inputs, weights = jnp.zeros((1, 2, 4, 4)), jnp.arange(3.0), jnp.arange(1.0, 4)[: -(-3 // size)]

    def body(x, layers, leader, inputs, leader_input):
        x, outputs = x + leader(x) * leader_input, []
        for layer, (own,) in zip(layers, inputs, strict=True):
            x = layer(x, bias) + own
            outputs.append(x.mean())
        return x, outputs

    def run(x):
        return stack.run_groups(layers, leaders, size, x, body, inputs, leader_inputs=weights, remat=remat)

    def loss(x):
        return jnp.square(run(x)[0]).sum()

    def one(stacked, n):
        graph, state = nnx.split(stacked)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[n], nnx.to_pure_dict(state)))

    def loop(x):
        outputs = []
        for n in range(3):
            x = x + one(leaders, n // size)(x) * (1 + n // size) if n % size == 0 else x
            x = one(layers, n)(x, bias) + n
            outputs.append(x.mean())
        return x, jnp.stack(outputs)

    with mesh():
        (got, outputs), got_gradient = jax.jit(run)(x), jax.jit(jax.grad(loss))(x)
    want, want_outputs = loop(x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(outputs, want_outputs, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.square(loop(x)[0]).sum())(x)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())


def saved_residuals(f, *args):
    from jax._src.ad_checkpoint import saved_residuals  # jax.ad_checkpoint only prints them

    return saved_residuals(f, *args)
