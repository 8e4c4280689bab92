"""BEATs against the oracle's statement of it (tests/goldens/make.py)."""

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
    golden,
    near,
)
from modality_towers import towers as both_seeds

from instructblip_jax.mesh import make_mesh
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.relative_bias import buckets, relative_bias
from instructblip_jax.models.towers.beats import Beats, BeatsConfig


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return both_seeds(tmp_path_factory.mktemp("beats"), "beats")


def stages(tower, fbank):
    """The oracle's stages, by its names."""
    x = tower.embed(fbank)
    tokens, distance = x.shape[1], tower.config.max_distance
    position = relative_bias(tower.relative[...], tokens, tokens, bidirectional=True, max_distance=distance)

    def body(layer, x):
        y = layer(x, position, None)
        return y, {"gate": layer.gates(layer.attn.queries(x)), "layer": y}

    found = stack.run(tower.layers, x, body)[1]
    return {"encoder_in": x} | {f"{name}/{n}": y for name, each in found.items() for n, y in enumerate(each)}


@pytest.fixture(scope="module")
def program(towers):
    """(fbank, probe, mask) -> output, gradients of its product with the probe, stages of the unmasked input."""

    def run(system_of, arrays, fbank, probe, mask):
        def product(arrays, fbank):
            output = system_of(arrays)(fbank, mask)
            return jnp.sum(output * probe), output

        (_, output), gradients = jax.value_and_grad(product, (0, 1), has_aux=True)(arrays, fbank)
        return output, gradients, stages(system_of(arrays), fbank)

    return Program(towers[0], run)


def test_outputs_stages_padded_rows_and_gradients(towers, program):
    for tower in towers:
        want = tower.want
        real = ~want["padding"]
        output, (grads, grad_input), by_stage = program(tower, want["fbank"], want["probe"], np.ones_like(real))
        near(output, want["output"], OUTPUT)
        near(grad_input, want["grad_input"], GRADIENT)
        check_gradients(tower, grads)
        for name, x in by_stage.items():
            if f"stage/{name}" in want:
                near(x, want[f"stage/{name}"], OUTPUT)
        padded = np.asarray(program(tower, want["fbank"], want["probe"], real)[0])
        near(padded[real], want["padded_output"][real], OUTPUT)


def test_gradients_through_a_qformer(towers, program):
    for tower in towers:
        fbank, every = tower.want["fbank"], np.ones_like(tower.want["padding"])
        output = program(tower, fbank, tower.want["probe"], every)[0]
        through = program(tower, fbank, check_qformer(tower, output), every)[1][1]
        near(through, tower.want["qformer/grad_input"], GRADIENT)


def test_files_and_arrays_are_the_same_bit_for_bit(towers):
    for tower in towers:
        check_names(tower)


def test_a_clip_does_not_depend_on_others_nor_on_what_follows_its_last_whole_patch(towers):
    """The oracle's second row with padding has 28 tokens, 7 steps of 8 frames."""
    tower = towers[0]
    clip = tower.want["fbank"][1:2, :56]
    longer = np.pad(clip, ((0, 0), (0, 5), (0, 3)), constant_values=9.0)  # neither frames nor bands are whole patches
    for found in tower.run(lambda system, *clips: [system(x) for x in clips], clip, longer):
        assert found.shape == (1, tower.config.tokens(56, 32), tower.config.width)
        near(found, tower.want["padded_output"][1:2, :28], OUTPUT)
    with pytest.raises(ValueError, match="patches are 8 frames by 8 bands"):
        tower.run(lambda system, x: system(x), clip[:, :7])


def test_bfloat16_and_eight_devices(towers):
    directory, want = towers[0].directory, golden("beats", 0)
    fbank, wide = (np.concatenate([want[name]] * 3)[:8] for name in ("fbank", "output"))
    split = Tower(directory, "beats", 0, mesh=make_mesh(data=2, fsdp=2, tensor=2))
    near(split.run(lambda system, x: system(x), fbank), wide, OUTPUT)
    narrow = Tower(directory, "beats", 0, dtype="bfloat16")
    check_wide(narrow, fbank, "exp", "rsqrt", "logistic")
    half = narrow.run(lambda system, x: system(x), fbank)
    assert half.dtype == jnp.bfloat16
    error = np.asarray(half, np.float32) - wide
    assert np.sqrt((error**2).mean()) < 0.02 * wide.std()  # measured: 0.013


def test_buckets_are_those_of_the_public_code():
    kind = {"count": BeatsConfig().num_buckets, "max_distance": BeatsConfig().max_distance}
    got = buckets(np.arange(-900, 901), bidirectional=True, **kind)
    np.testing.assert_array_equal(got, golden("beats", 0)["public_buckets"])


def test_the_full_size_is_that_of_the_public_file():
    graph, state = nnx.split(nnx.eval_shape(lambda: Beats(BeatsConfig(), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(state)) == 90_311_792
    blocks = jax.ShapeDtypeStruct((2, 512, 128), jnp.float32)
    out = jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, blocks)
    assert (out.shape, out.dtype) == ((2, BeatsConfig().tokens(512, 128), 768), jnp.bfloat16)
