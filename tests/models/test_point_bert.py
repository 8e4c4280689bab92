"""PointBERT against the oracle's statement of it (tests/goldens/make.py)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from modality_towers import (
    GRADIENT,
    OUTPUT,
    Program,
    Tower,
    check_gradients,
    check_names,
    check_qformer,
    check_wide,
    near,
)
from modality_towers import towers as both_seeds

from instructblip_jax.convert.parts import point_bert
from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.layers import stack
from instructblip_jax.models.towers.point_bert import PointBert, PointBertConfig, farthest, nearest

STATISTICS = 2 * (128 + 512)
"""Means and variances of the two batch norms, which are no parameters in torch."""


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return both_seeds(tmp_path_factory.mktemp("point_bert"), "pointbert")


def stages(tower, points):
    """The oracle's stages, by its names."""
    centres, patches = tower.group(points)
    x, position = tower.embed(points)

    def body(block, x):
        y = block(x + position)
        return y, y

    x, blocks = stack.run(tower.layers, x, body)
    return {
        "fps_index": farthest(points, tower.config.num_group),
        "neighbours": nearest(points, centres, tower.config.group_size),
        "patch_features": tower.patches(patches),
        "position": position[:, 1:],
        **{f"block/{n}": y for n, y in enumerate(blocks)},
        "normed": tower.norm(x),
    }


@pytest.fixture(scope="module")
def program(towers):
    """(points, probe) -> output, gradients of its product with the probe, stages."""

    def run(system_of, arrays, points, probe):
        def product(arrays, points):
            output = system_of(arrays)(points)
            return jnp.sum(output * probe), output

        (_, output), gradients = jax.value_and_grad(product, (0, 1), has_aux=True)(arrays, points)
        return output, gradients, stages(system_of(arrays), points)

    return Program(towers[0], run)


def test_outputs_stages_and_gradients(towers, program):
    for tower in towers:
        want = tower.want
        probe = want["probe"][:, None]
        output, (grads, grad_input), by_stage = program(tower, want["points"], probe)
        assert output.shape == (2, 1, tower.config.width)
        near(output[:, 0], want["embedding"], OUTPUT)
        near(grad_input, want["grad_input"], GRADIENT)
        check_gradients(tower, grads)
        for name in ("fps_index", "neighbours"):
            np.testing.assert_array_equal(by_stage.pop(name), want[f"stage/{name}"])
        for name, x in by_stage.items():
            if f"stage/{name}" in want:
                near(x, want[f"stage/{name}"], OUTPUT)
        near(program(tower, want["shuffled_points"], probe)[0][:, 0], want["shuffled_embedding"], OUTPUT)
        from_77 = np.roll(want["points"], -77, axis=1)
        near(program(tower, from_77, probe)[0][:, 0], want["embedding_start_77"], OUTPUT)


def test_gradients_through_a_qformer(towers, program):
    for tower in towers:
        points = tower.want["points"]
        output = program(tower, points, tower.want["probe"][:, None])[0]
        through = program(tower, points, check_qformer(tower, output))[1][1]
        near(through, tower.want["qformer/grad_input"], GRADIENT)


def test_files_and_arrays_are_the_same_bit_for_bit(towers):
    for tower in towers:
        check_names(tower, point_bert.unread(""))


def test_of_equally_far_points_the_first_is_taken():
    """Points of a small grid, whose distances are exact: the picks of NumPy's first maximum and stable sort."""
    points = np.random.default_rng(0).integers(0, 4, (2, 90, 3)).astype(np.float32)
    picks = np.asarray(jax.jit(farthest, static_argnums=1)(points, 12))
    centres = np.take_along_axis(points, picks[..., None], axis=1)
    found = np.asarray(jax.jit(nearest, static_argnums=2)(points, centres, 7))
    for cloud, own, index in zip(points, picks, found, strict=True):
        distance, at = np.full(len(cloud), np.inf), 0
        for pick, group in zip(own, index, strict=True):
            assert pick == at
            to_centre = ((cloud - cloud[at]) ** 2).sum(-1)
            np.testing.assert_array_equal(group, np.argsort(to_centre, kind="stable")[:7])
            distance = np.minimum(distance, to_centre)
            at = int(distance.argmax())


def test_clouds_of_few_distinct_points(towers, program):
    """Four, fewer than there are centres, and a single one: finite, and so are the gradients."""
    points = towers[0].want["points"]
    few = np.stack([points[0, :4][np.arange(160) % 4], np.zeros((160, 3), np.float32)])
    output, gradients, _ = program(towers[0], few, towers[0].want["probe"][:, None])
    for x in (output, *jax.tree.leaves(gradients)):
        assert np.isfinite(x).all()
    with pytest.raises(ValueError, match="N at least 6"):
        towers[0].run(lambda system, x: system(x), points[:, :5])


def test_bfloat16_and_eight_devices(towers):
    tower = towers[0]
    points, wide = (np.concatenate([tower.want[name]] * 4) for name in ("points", "embedding"))
    split = Tower(tower.directory, "pointbert", 0, mesh=make_mesh(data=2, fsdp=2, tensor=2))
    near(split.run(lambda system, x: system(x), points)[:, 0], wide, OUTPUT)
    narrow = Tower(tower.directory, "pointbert", 0, dtype="bfloat16")
    check_wide(narrow, points, "exp", "rsqrt", "top_k", "argmax")
    half = narrow.run(lambda system, x: system(x), points)
    assert half.dtype == jnp.bfloat16
    error = np.asarray(half, np.float32)[:, 0] - wide
    assert np.sqrt((error**2).mean()) < 0.02 * wide.std()  # measured: 0.010


def test_the_full_size_is_that_of_the_public_file():
    made = nnx.eval_shape(lambda: PointBert(PointBertConfig(), dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(made)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(state)) == 22_252_032 + STATISTICS
    clouds = jax.ShapeDtypeStruct((2, 8192, 3), jnp.float32)
    out = jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, clouds)
    assert (out.shape, out.dtype) == ((2, 1, 512), jnp.bfloat16)
