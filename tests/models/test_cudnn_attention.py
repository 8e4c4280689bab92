"""cuDNN's attention: chosen where it can be, equal to the plain form, and its gradients whole.

No GPU is needed: what is handed to cuDNN is computed by jax's own form here, and the calls are read from the program.
"""

import jax
import jax.numpy as jnp
import pytest
from jaxprs import equations

from instructblip_jax.models.layers import attention
from instructblip_jax.models.layers.attention import attend, causal_bias, mask_bias
from instructblip_jax.plan.cudnn import assumed

B, T, S, H, K = 3, 6, 8, 4, 16
GPUS = jax.sharding.AbstractMesh(
    (1, 1, 1),
    ("data", "fsdp", "tensor"),
    abstract_device=jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu"),
)


def arrays(*, rows: int = T, keys: int = S, heads: int = H, size: int = K, dtype=jnp.bfloat16) -> tuple:
    shapes = (B, rows, H, size), (B, heads, keys, size), (B, heads, keys, size)
    return tuple(
        jax.random.normal(key, shape, dtype)
        for key, shape in zip(jax.random.split(jax.random.key(0), 3), shapes, strict=True)
    )


def mask() -> jax.Array:
    """Padding of different lengths; the last row has nothing to attend to."""
    return jnp.arange(S) < jnp.array([S, 5, 0])[:, None]


BIASES = {
    "none": lambda: None,
    "padding": lambda: mask_bias(mask()),
    "causal": lambda: jnp.minimum(causal_bias(S)[:, :, :T], mask_bias(mask())),
    "relative": lambda: jax.random.normal(jax.random.key(1), (1, H, T, S)).astype(jnp.bfloat16).astype(jnp.float32),
    "relative and padding": lambda: BIASES["relative"]() + mask_bias(mask()),
}


@pytest.mark.parametrize("name", BIASES)
def test_equals_the_plain_form_with_all_gradients(name, monkeypatch):
    bias = BIASES[name]()
    query, keys, values = arrays()

    def total(query, keys, values, bias):
        return (attend(query, [(keys, values, bias)]).astype(jnp.float32) ** 2).sum()

    def results():
        out = attend(query, [(keys, values, bias)])
        return out, jax.grad(total, argnums=(0, 1, 2) if bias is None else (0, 1, 2, 3))(query, keys, values, bias)

    plain = results()
    handed = []

    def stand_in(query, keys, values, bias, *, scale, implementation):
        handed.append((implementation, bias is None or bias.dtype == jnp.bfloat16))
        bias = None if bias is None else jax.lax.stop_gradient(bias)  # cuDNN's gradient of a bias with rows is 0
        return jax_form(query, keys, values, bias, scale=scale, implementation="xla")

    jax_form = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    monkeypatch.setattr(attention, "_cudnn_takes", lambda query, parts: True)
    fused = results()
    assert set(handed) == {("cudnn", True)}
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(fused), strict=True):
        assert bool(jnp.isfinite(b).all())
        assert a.dtype == b.dtype
        assert float(jnp.abs(a - b).max()) <= 0.02 * float(jnp.abs(a).max())


@pytest.fixture
def cudnn():
    """GPUs at hand, as far as tracing asks, as `plan` traces."""
    with assumed():
        yield


def calls(parts=None, mesh=GPUS, of=jax.grad, **sizes) -> set[str]:
    """The primitives of cuDNN in the traced attention and its gradient."""
    query, *rest = arrays(**sizes)
    parts = parts or [(*rest, None)]
    with jax.sharding.use_abstract_mesh(mesh):
        jaxpr = jax.make_jaxpr(of(lambda query: attend(query, parts).astype(jnp.float32).sum()))(query)
    return {name for x in equations(jaxpr) if (name := x.primitive.name).startswith("dot_product_attention")}


BOTH = {"dot_product_attention_fwd_wrapper", "dot_product_attention_bwd_wrapper"}


@pytest.mark.usefixtures("cudnn")
def test_chosen_where_types_and_shapes_allow():
    assert calls() == BOTH
    assert calls(size=88) == BOTH
    for refused in ({"dtype": jnp.float32}, {"size": 12}, {"size": 136}, {"heads": 2}):
        assert calls(**refused) == set(), refused
    query, keys, values = arrays(rows=5)
    assert calls([(keys, values, mask_bias(mask()))], rows=5) == set()  # cuDNN's backward pass takes even lengths only
    assert calls([(keys, values, None)] * 2) == set()
    assert calls(rows=5, keys=7) == set()  # nor does it without one, but the forward pass alone does
    assert calls(rows=5, keys=7, of=lambda total: total) == {"dot_product_attention_fwd_wrapper"}
    with jax.sharding.use_abstract_mesh(GPUS):
        query = query[:, None]
        decoding = jax.make_jaxpr(lambda: attend(query, [(keys, values, None)]))()
        dropped = jax.make_jaxpr(
            lambda: attend(query[:, 0], [(keys, values, None)], dropout_rate=0.1, keep=jnp.array(True))
        )()
    assert not any("attention" in x.primitive.name for jaxpr in (decoding, dropped) for x in equations(jaxpr))


@pytest.mark.usefixtures("cudnn")
def test_only_on_meshes_of_gpus():
    assert calls(mesh=GPUS.update(abstract_device=None)) == set()
    tpu = jax.sharding.AbstractDevice(device_kind="TPU v5e", num_cores=1, platform="tpu")
    assert calls(mesh=GPUS.update(abstract_device=tpu)) == set()


def test_no_gpu_at_hand_is_the_plain_form():
    assert calls() == set()


@pytest.mark.usefixtures("cudnn")
def test_nothing_is_computed_for_a_bias_that_does_not_train():
    query, keys, values = arrays()
    bias = mask_bias(mask())

    def total(query):
        return attend(query, [(keys, values, bias)]).astype(jnp.float32).sum()

    with jax.sharding.use_abstract_mesh(GPUS):
        lowered = jax.jit(jax.grad(total)).trace(query).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert text.count("__cudnn$fmhaScaleBiasSoftmax") >= 1
    assert "exponential" not in text
