"""Model FLOPs against numbers worked out by hand, against the real step's trace, and what programs do against XLA."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.plan import compiled, flops, hlo_cost
from instructblip_jax.plan.flops import Lengths
from instructblip_jax.plan.hlo import Program
from instructblip_jax.recipes.public import PUBLIC

sys.path.append(str(Path(__file__).parents[1] / "train"))
import training

SHAPES = {"S": Lengths(32, 16), "M": Lengths(64, 64), "P": Lengths(128, 128)}
TOTALS = {
    "flan-t5-xl": (1.01, 1.48, 2.25),
    "flan-t5-xxl": (2.32, 4.12, 7.01),
    "vicuna-7b": (2.65, 4.78, 8.21),
    "vicuna-13b": (4.65, 8.78, 15.42),
}
"""TFLOP of one training sample, worked out by hand: four times parameters times tokens, and scores."""


@pytest.mark.parametrize("name", TOTALS)
def test_the_public_models_agree_with_hand_numbers(name):
    config = PUBLIC[f"Salesforce/instructblip-{name}"]
    counted = [flops.example(config, lengths) for lengths in SHAPES.values()]
    assert [sum(parts.values()) / 1e12 for parts in counted] == pytest.approx(TOTALS[name], abs=0.006)
    # The tower alone: 39 blocks of 4 D D + 2 D M weights over 257 tokens, the scores, and the patches.
    blocks = 39 * (257 * (4 * 1408**2 + 2 * 1408 * 6144) + 2 * 257**2 * 1408)
    assert counted[0]["vit"] == 2 * (blocks + 256 * 588 * 1408)


def test_a_language_model_costs_four_flops_a_parameter_and_token():
    """Frozen: no gradient of a weight; 7B: 32 layers of 202.4 million, and a head for the response alone."""
    config = PUBLIC["Salesforce/instructblip-vicuna-7b"]
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    scores = 32 * 160**2 * 4096  # both products, the half that looks back
    expected = 4 * (160 * 32 * layer + 64 * 4096 * 32064) + 6 * scores
    assert flops.example(config, SHAPES["M"])["llm"] == expected


def traced(tmp_path, family: str, trainable: str, rows: int, lengths: Lengths):
    raw = training.config_json(dropout=0.0, family=family)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = hf_instructblip.read_config(tmp_path / "config.json")
    setting = compiled.Setting(config, rows, lengths, dtype="float32", trainable=trainable)
    described = compiled.describe(setting, single_device_mesh())
    return config, described, compiled.train_step(described)


@pytest.mark.parametrize("trainable", ["qformer", "original", "projection", "vision"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_the_steps_trace_has_the_recipes_flops_and_what_is_explained(tmp_path, family, trainable):
    rows, lengths = 8, Lengths(11, 7)
    config, described, step = traced(tmp_path, family, trainable, rows, lengths)
    recipe = rows * sum(flops.example(config, lengths, trainable).values())
    # The trace also has: scores that a causal mask hides; the head where no response is; and what the last layer of
    # the Q-Former makes of the text, which nobody reads, with its gradients.
    heads, queries = config.text.width, config.num_query_tokens
    if isinstance(config.text, T5Config):
        hidden = 7**2 * config.text.num_heads * config.text.d_kv
        spare = 0
    else:
        hidden = config.text.num_hidden_layers * (queries + 11 + 7) ** 2 * heads
        spare = 4 * 11 * heads * config.text.vocab_size
    unread = 2 * config.qformer.hidden_size * config.qformer.intermediate_size * 11
    passes = 1 if trainable == "projection" else 3
    assert hlo_cost.traced_flops(step.jaxpr.jaxpr) == recipe + rows * (6 * hidden + spare + 2 * passes * unread)
    shapes = {name: x.shape for name, x in described.batch.items()}
    assert flops.batch(config, shapes, trainable) == recipe


def test_frames_and_blip2_are_counted():
    config = PUBLIC["Salesforce/instructblip-flan-t5-xl"]
    one, four = (flops.example(config, Lengths(32, 16, frames)) for frames in (1, 4))
    assert four["vit"] == 4 * one["vit"]
    assert one["llm"] < four["llm"] < 4 * one["llm"]
    shapes = {
        "pixel_values": (3, 4, 224, 224, 3),
        "input_ids": (3, 32),
        "qformer_input_ids": (3, 32),
        "labels": (3, 16),
    }
    assert flops.batch(config, shapes) == 3 * sum(four.values())


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
    assert hlo_cost.traced_flops(traced.jaxpr.jaxpr) == expected
    compiled = traced.lower().compile()
    assert hlo_cost.executed_flops(Program(compiled.as_text())) == expected
    assert compiled.cost_analysis()["flops"] < expected / 2  # why loops are counted here
