"""Float32 parts of a bfloat16 program, read from the jaxpr: a CPU run cannot tell them from bfloat16's noise."""

import json

import checkpoints
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jaxprs import equations

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.models.layers.attention import attend
from instructblip_jax.systems.build import abstract, flatten, merge

HALF, FULL = jnp.dtype("bfloat16"), jnp.dtype("float32")
B, N, T, S, OWN, H, G, K = 2, 3, 4, 5, 6, 8, 2, 7
"""Examples, continuations, queries, shared and own keys, heads, key heads, head size."""


def half(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, HALF)


CASES = {
    "no bias": (half(B, T, H, K), [(half(B, H, S, K), None)]),
    "biased": (half(B, T, H, K), [(half(B, H, S, K), (B, 1, T, S))]),
    "grouped": (half(B, T, H, K), [(half(B, G, S, K), (B, 1, T, S))]),
    "shared and own": (half(B, N, T, H, K), [(half(B, G, S, K), (B, 1, 1, 1, S)), (half(B, G, N, OWN, K), (T, OWN))]),
}
"""Queries, and for each part keys (and values) and the shape of the bias."""


@pytest.mark.parametrize("case", CASES)
def test_attention_scores_are_products_in_float32_under_one_float32_softmax(case):
    query, parts = CASES[case]
    keys = [part for part, _ in parts]
    biases = [None if shape is None else jax.ShapeDtypeStruct(shape, FULL) for _, shape in parts]

    def run(query, keys, values, biases):
        return attend(query, list(zip(keys, values, biases, strict=True)))

    found = list(equations(jax.make_jaxpr(run)(query, keys, keys, biases).jaxpr))
    products = [equation for equation in found if equation.primitive.name == "dot_general"]
    scores, mixed = products[: len(parts)], products[len(parts) :]
    assert len(mixed) == len(parts)
    for equation in products:  # operands as they are kept
        assert {x.aval.dtype for x in equation.invars} == {HALF}
    assert {equation.outvars[0].aval.dtype for equation in scores} == {FULL}
    softmax = [e for e in found if e.primitive.name in ("exp", "reduce_max", "div")]
    assert [e.primitive.name for e in softmax].count("exp") == 1
    assert {x.aval.dtype for e in softmax for x in e.outvars} == {FULL}
    assert jax.eval_shape(run, query, keys, keys, biases).dtype == HALF


@pytest.mark.parametrize(
    ("kind", "family"), [("instructblip", "t5"), ("instructblip", "grouped"), ("blip-2", "opt"), ("blip-2", "t5")]
)
def test_softmax_norms_angles_and_logits_are_float32_in_a_bfloat16_model(tmp_path, kind, family):
    raw = checkpoints.config_json(kind, checkpoints.MINI, family)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = hf_instructblip.read_config(tmp_path / "config.json")
    graph, train, frozen = abstract(config, mesh=single_device_mesh(), dtype="bfloat16", trainable="qformer")
    batch = checkpoints.batch(raw)
    logits = lambda train, frozen, batch: merge(graph, train, frozen).logits(batch)
    with jax.set_mesh(single_device_mesh()):
        jaxpr = jax.make_jaxpr(logits)(train, frozen, batch)
    assert jaxpr.out_avals[0].dtype == FULL
    found: dict[str, list] = {}
    for equation in equations(jaxpr.jaxpr):
        found.setdefault(equation.primitive.name, []).append(equation)
    assert any(x.aval.dtype == HALF for e in found["dot_general"] for x in e.invars)
    wanted = ["exp", "rsqrt", "reduce_max", "reduce_sum", *(["sin", "cos"] if family == "grouped" else [])]
    for name in wanted:
        floats = [x.aval for e in found[name] for x in e.invars if jnp.issubdtype(x.aval.dtype, jnp.floating)]
        assert floats, name
        assert {x.dtype for x in floats} == {FULL}, name


def test_trained_kernels_are_cast_once_for_all_layers_and_norms_are_not(tmp_path):
    """Cast inside the scan, copies of all layers would be kept for the backward pass."""
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.config_json("instructblip", checkpoints.MINI, "t5")))
    config = hf_instructblip.read_config(tmp_path / "config.json")
    graph, train, frozen = abstract(config, mesh=single_device_mesh(), dtype="bfloat16", trainable="qformer")
    assert {x.dtype for x in train.values()} == {FULL}
    system = jax.eval_shape(lambda *arrays: nnx.split(merge(graph, *arrays))[1], train, frozen)
    used = {path: variable.dtype for path, variable in flatten(system).items() if path in train}
    half = {path for path, dtype in used.items() if dtype == HALF}
    assert half == {path for path in train if path.endswith(("/kernel", "/embedding"))}
