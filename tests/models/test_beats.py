"""BEATs against the oracle's statement of it (tests/goldens/make.py)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from modality_towers import GRADIENT, OUTPUT, Tower, check_gradients, check_names, check_qformer, golden, near, of_each
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


def test_outputs_stages_padded_rows_and_gradients(towers):
    def run(system_of, arrays, fbank, probe, padding):
        def product(arrays, fbank):
            output = system_of(arrays)(fbank)
            return jnp.sum(output * probe), output

        (_, output), gradients = jax.value_and_grad(product, (0, 1), has_aux=True)(arrays, fbank)
        tower = system_of(arrays)
        return output, gradients, tower(fbank, ~padding), stages(tower, fbank)

    for tower, found in zip(towers, of_each(towers, run, "fbank", "probe", "padding"), strict=True):
        output, (grads, grad_input), padded, by_stage = found
        near(output, tower.want["output"], OUTPUT)
        near(grad_input, tower.want["grad_input"], GRADIENT)
        real = ~tower.want["padding"]
        near(np.asarray(padded)[real], tower.want["padded_output"][real], OUTPUT)
        for name, x in by_stage.items():
            if f"stage/{name}" in tower.want:
                near(x, tower.want[f"stage/{name}"], OUTPUT)
        check_gradients(tower, grads)


def test_gradients_through_a_qformer(towers):
    check_qformer(towers, "fbank")


def test_files_and_arrays_are_the_same_bit_for_bit(towers):
    for tower in towers:
        check_names(tower)


def test_a_clip_does_not_depend_on_others_nor_on_what_follows_its_last_whole_patch(towers):
    fbank = towers[0].want["fbank"]
    clip = fbank[1:2, :40]
    longer = np.pad(clip, ((0, 0), (0, 5), (0, 3)), constant_values=9.0)  # neither frames nor bands are whole patches

    def run(system, clip, longer, clips):
        return system(clip), system(longer), system(clips)[1:2]

    alone, odd, among = towers[0].run(run, clip, longer, fbank[:, :40])
    assert alone.shape == (1, towers[0].config.tokens(40, 32), towers[0].config.width)
    near(odd, np.asarray(alone), OUTPUT)
    near(among, np.asarray(alone), OUTPUT)
    with pytest.raises(ValueError, match="patches are 8 frames by 8 bands"):
        towers[0].run(lambda system, x: system(x), fbank[:, :7])


def test_bfloat16_and_eight_devices(towers):
    directory, want = towers[0].directory, golden("beats", 0)
    fbank, wide = (np.concatenate([want[name]] * 3)[:8] for name in ("fbank", "output"))
    split = Tower(directory, "beats", 0, mesh=make_mesh(data=2, fsdp=2, tensor=2))
    near(split.run(lambda system, x: system(x), fbank), wide, OUTPUT)
    half = Tower(directory, "beats", 0, dtype="bfloat16").run(lambda system, x: system(x), fbank)
    assert half.dtype == jnp.bfloat16
    error = np.asarray(half, np.float32) - wide
    print("BF16", np.sqrt((error**2).mean()) / wide.std(), np.abs(error).max())
    assert np.sqrt((error**2).mean()) < 0.02 * wide.std()


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
