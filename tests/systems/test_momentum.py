"""Momentum copies and queues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.systems import momentum


def test_copies_follow_what_they_are_copies_of():
    train = {"vit/a": jnp.ones(2), "vit/b": jnp.zeros(1), "head": jnp.ones(3)}
    memory = momentum.copies(train, ("vit",)) | {"place": jnp.zeros((), jnp.int32)}
    assert set(memory) == {"momentum/vit/a", "momentum/vit/b", "place"}
    moved = momentum.follow(memory, {path: x + 2 for path, x in train.items()}, 0.9)
    np.testing.assert_allclose(moved["momentum/vit/a"], 0.9 * 1 + 0.1 * 3, rtol=1e-6)
    assert int(moved["place"]) == 0


def test_a_twin_computes_with_the_copies_and_lets_no_gradient_through():
    def loss(kernel, copy):
        layer = linear(2, 3, (None, "embed"), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        layer.kernel.set_value(kernel)
        layer.kernel.set_metadata(in_use=(jnp.dtype(jnp.bfloat16), None))
        other = momentum.twin(layer, {"momentum/proj/kernel": copy}, "proj")
        assert other.kernel[...].dtype == jnp.bfloat16
        assert layer.kernel[...].dtype == jnp.float32  # the layer itself stays
        return other(jnp.ones((1, 2))).sum().astype(jnp.float32)

    kernel, copy = jnp.full((2, 3), 5.0), jnp.full((2, 3), 2.0)
    assert float(loss(kernel, copy)) == 12.0
    for gradient in jax.grad(loss, (0, 1))(kernel, copy):
        assert not gradient.any()


@pytest.mark.parametrize("devices", [1, 8])
def test_a_queue_holds_the_newest_features_in_the_order_of_their_rows(devices):
    memory = momentum.begin_queues(5, 2, pictures=True)
    np.testing.assert_allclose(jnp.linalg.norm(memory["image_queue"], axis=1), 1, rtol=1e-6)
    assert (memory["picture_queue"] == momentum.EMPTY).all()
    features = jnp.arange(24.0).reshape(12, 2)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:devices])):
        put = jax.jit(momentum.enqueue)
        for n in range(4):  # 3 rows at a time, of 5 places
            rows = slice(3 * n, 3 * n + 3)
            memory = put(memory, features[rows], -features[rows], jnp.arange(12)[rows])
    order = [10, 11, 7, 8, 9]
    assert int(memory["place"]) == 12 % 5
    assert memory["picture_queue"].tolist() == order
    np.testing.assert_array_equal(memory["image_queue"], features[jnp.array(order)])
    np.testing.assert_array_equal(memory["text_queue"], -features[jnp.array(order)])


def test_a_queue_that_cannot_hold_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"system\.queue_size is 2, less than the batch's 3 rows"):
        momentum.enqueue(momentum.begin_queues(2, 4, pictures=False), jnp.ones((3, 4)), jnp.ones((3, 4)))
