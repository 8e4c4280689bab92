"""FLOPs counted in traces against numbers worked out by hand, and FLOPs of compiled programs against XLA's count."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import hand_count
import jax
import jax.numpy as jnp
import pytest

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import make_mesh, single_device_mesh
from instructblip_jax.models.layers.stack import REMAT
from instructblip_jax.plan import compiled, flops, hlo_cost, tracing
from instructblip_jax.plan.compiled import Lengths
from instructblip_jax.plan.hlo import Program
from instructblip_jax.recipes.public import PUBLIC
from instructblip_jax.systems.trainable import prefixes

sys.path.append(str(Path(__file__).parents[1] / "train"))
import training

TOTALS = {
    "flan-t5-xl": ((32, 16, 1.01), (64, 64, 1.48), (128, 128, 2.25)),
    "flan-t5-xxl": ((32, 16, 2.32), (64, 64, 4.12), (128, 128, 7.01)),
    "vicuna-7b": ((32, 16, 2.65), (64, 64, 4.78), (128, 128, 8.21)),
    "vicuna-13b": ((32, 16, 4.65), (64, 64, 8.78), (128, 128, 15.42)),
}
"""Tokens of prompt and response, and TFLOP of one training sample: four times parameters times tokens, and scores."""


def shapes_of(config, *sizes, **options) -> dict[str, tuple[int, ...]]:
    return {name: x.shape for name, x in config.batch(*sizes, **options).items()}


@pytest.mark.parametrize("name", TOTALS)
def test_the_public_models_agree_with_hand_numbers(name):
    """At full size, and without its memory."""
    config = PUBLIC[f"Salesforce/instructblip-{name}"]
    trained = prefixes(None, config.trainable_sets)
    for prompt, response, tera in TOTALS[name]:
        by_hand = sum(hand_count.example(config, prompt, response, trained).values())
        assert by_hand / 1e12 == pytest.approx(tera, abs=0.006)
    _, (prompt, response, _), _ = TOTALS[name]
    by_hand = sum(hand_count.example(config, prompt, response, trained).values())
    by_hand += hand_count.extras(config, prompt, response, trained)
    counted = flops.of_batch(tracing.describe(config), shapes_of(config, 3, prompt, response))
    assert counted == 3 * by_hand


def mini(tmp_path, family: str):
    raw = training.config_json(dropout=0.1, family=family)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return hf_instructblip.read_config(tmp_path / "config.json")


@pytest.mark.parametrize("int8", [False, True])
def test_an_adapter_costs_three_times_its_product(tmp_path, int8):
    """Forward, gradient of its input, gradient of itself: the frozen kernel beside it has none."""
    config, rank = mini(tmp_path, "llama").configured(lora={"rank": 3}), 3
    shapes, blocks = shapes_of(config, 2, 8, 4), config.text
    width, inner = blocks.hidden_size, blocks.intermediate_size
    sides = 4 * (width + width) + 3 * (width + inner)  # D + M of each linear layer
    positions = 2 * (config.num_query_tokens + 8 + 4)
    plain, adapted = (
        flops.of_batch(tracing.describe(config, trainable=name, int8=int8), shapes)
        for name in ("qformer", "qformer_and_lora")
    )
    assert adapted - plain == 3 * 2 * positions * rank * sides * blocks.num_hidden_layers


@pytest.mark.parametrize("trainable", ["qformer", "original", "projection", "vision"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_trace_has_the_recipes_flops_and_explained_extras(tmp_path, family, trainable):
    config, rows = mini(tmp_path, family), 8
    trained = prefixes(trainable, config.trainable_sets)
    by_hand = sum(hand_count.example(config, 11, 7, trained).values()) + hand_count.extras(config, 11, 7, trained)
    counted = flops.of_batch(tracing.describe(config, trainable=trainable), shapes_of(config, rows, 11, 7))
    assert counted == rows * by_hand


def test_the_real_step_is_counted_once_however_little_it_keeps(tmp_path):
    """The train command's own step, for each rematerialisation and over a mesh."""
    config = mini(tmp_path, "llama")
    setting = compiled.Setting(config, 8, Lengths(80, 48), dtype="float32", trainable="vision")
    counted = flops.of_batch(tracing.describe(config, trainable="vision"), shapes_of(config, 8, 80, 48))
    executed = {}
    for remat in REMAT:
        described = compiled.describe(dataclasses.replace(setting, remat=remat), make_mesh(2, 2, 2))
        jaxpr = compiled.train_step(described).jaxpr.jaxpr
        assert flops.count(jaxpr) == counted
        executed[remat] = flops.count(jaxpr, recomputed=True)
    # The logits of a chunk are always computed again; "dots" repeats the attention's scores, "layer" a forward pass.
    assert counted < executed["none"] < executed["dots"] < executed["layer"] < 1.5 * counted


def test_features_in_the_place_of_pictures_cost_no_tower(tmp_path):
    """Two frames a row; and a mesh that is in force, or a batch that names its sets, changes nothing."""
    config = mini(tmp_path, "t5")
    described, shapes = tracing.describe(config), shapes_of(config, 4, 8, 6, ("image", "image"))
    pixels = flops.of_batch(described, shapes)
    media = shapes.pop("pixel_values")
    side = config.vision.grid**2 + 1
    stored = flops.of_batch(described, shapes | {"image_features": (*media[:2], side, config.vision.hidden_size)})
    tower = hand_count.example(config, 8, 6, prefixes(None, config.trainable_sets), frames=2)["vit"]
    assert pixels - stored == 4 * tower > 0
    with jax.set_mesh(make_mesh(2, 2, 2)):
        assert flops.of_batch(described, shapes | {"pixel_values": media, "set": (4,)}) == pixels


def test_a_language_model_costs_four_flops_a_parameter_and_token():
    """Frozen: no gradient of a weight; 7B: 32 layers of 202.4 million, and a head for the response alone."""
    config = PUBLIC["Salesforce/instructblip-vicuna-7b"]
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    scores = 32 * 160**2 * 4096  # both products, the half that looks back
    expected = 4 * (160 * 32 * layer + 64 * 4096 * 32064) + 6 * scores
    assert hand_count.example(config, 64, 64, ("qformer",))["llm"] == expected


CONVOLUTIONS = {
    "strided": {"window_strides": (2, 3), "padding": ((1, 1), (0, 2))},
    "dilated": {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
    "transposed": {"window_strides": (1, 1), "padding": ((2, 2), (1, 1)), "lhs_dilation": (2, 2)},
    "depthwise": {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 6},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_and_their_gradients_are_those_xla_counts(kind):
    options = CONVOLUTIONS[kind]
    outputs, inputs = (6, 1) if kind == "depthwise" else (5, 6)
    x = jax.ShapeDtypeStruct((2, 13, 11, 6), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 4, inputs, outputs), jnp.float32)
    convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)
    out = jax.eval_shape(convolve, x, kernel)

    def forward_and_gradients(x, kernel, tangent):
        out, pullback = jax.vjp(convolve, x, kernel)
        return out, pullback(tangent)

    for function, arguments in ((convolve, (x, kernel)), (forward_and_gradients, (x, kernel, out))):
        traced = jax.jit(function).trace(*arguments)
        with jax.set_mesh(single_device_mesh()):
            theirs = traced.lower().cost_analysis()["flops"]
        assert flops.count(traced.jaxpr.jaxpr) == pytest.approx(theirs, rel=1e-6)


def test_a_compiled_programs_products_are_those_xla_counts():
    """No loop here, where XLA's own analysis is right; it counts the few other operations as well."""

    def layer(x, w, v):
        scores = jnp.einsum("btd,bsd->bts", x, x)
        return jnp.einsum("bts,bsd->btd", scores, x @ w) @ v

    x, w, v = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 64, 128), (128, 128), (128, 512)))
    compiled = jax.jit(layer).lower(x, w, v).compile()
    counted = hlo_cost.executed_flops(Program(compiled.as_text()))
    assert counted == 2 * (2 * 4 * 64 * 64 * 128 + 4 * 64 * 128 * 128 + 4 * 64 * 128 * 512)
    assert counted == pytest.approx(compiled.cost_analysis()["flops"], rel=0.01)


def test_a_scanned_product_counts_as_often_as_it_runs():
    def run(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    x, weights = jax.ShapeDtypeStruct((8, 32), jnp.float32), jax.ShapeDtypeStruct((5, 32, 32), jnp.float32)
    traced = jax.jit(run).trace(x, weights)
    expected = 5 * 2 * 8 * 32 * 32
    assert flops.count(traced.jaxpr.jaxpr) == expected
    compiled = traced.lower().compile()
    assert hlo_cost.executed_flops(Program(compiled.as_text())) == expected
    assert compiled.cost_analysis()["flops"] < expected / 2  # why loops are counted here
