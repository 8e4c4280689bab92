"""FLOPs of a train step, counted in its trace: matrix products and convolutions, with a multiply-add
as two.

Everything that the step computes is counted once, including masked attention scores and logits at positions without a
label. A frozen weight has no gradient, so none is counted. Rematerialisation in the backward pass is counted only on
request; the product with which rotary positions swap channels never is.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructblip_jax.models.layers.rope import SWAP
from instructblip_jax.plan import tracing
from instructblip_jax.systems.protocol import Shapes
from instructblip_jax.train.groups import parted

RECOMPUTED = "rematted_computation"
"""JAX's name for the scope of rematerialised computations."""


def of_batch(system: tracing.Traceable, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """FLOPs of one training step of a `Model`, or of a system from `tracing.describe`, on a batch whose arrays have
    these global shapes.

    Cached features cost nothing. Tracing takes one or two seconds, and needs neither memory nor a device.
    """
    groups = parted(shapes)
    if len(groups) > 1:  # a step over several batches
        return sum(of_batch(system, own) for own in groups.values())
    (shapes,) = groups.values()
    config = system.config
    known = config.batch(1, 1, 1)
    floats = {*config.media_keys, *config.feature_keys.values()}

    def dtype(name: str) -> Any:
        return known[name].dtype if name in known else jnp.float32 if name in floats else jnp.int32

    batch: Shapes = {name: jax.ShapeDtypeStruct(shape, dtype(name)) for name, shape in shapes.items()}
    return count(tracing.gradients(system, batch))


def count(jaxpr: Any, *, recomputed: bool = False) -> float:
    """FLOPs of a traced function (a jaxpr), over all devices. Scans count once per iteration, a loop without a known
    end counts once. ``recomputed``: also count rematerialisation."""
    total = 0.0
    for equation in jaxpr.eqns:
        scope = str(equation.source_info.name_stack)
        if SWAP in scope or (not recomputed and RECOMPUTED in scope):
            continue
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        inner = [count(part, recomputed=recomputed) for part in parts(equation)]
        times = equation.params["length"] if name == "scan" else 1
        if inner:
            total += times * (max(inner) if name == "cond" else sum(inner))
    return total


def parts(equation: Any) -> Iterator[Any]:
    """The jaxprs inside an equation: the body of a loop, the branches of a condition, a called function."""
    for value in equation.params.values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                yield getattr(part, "jaxpr", part)


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[n] for n in contracted)


def _convolution(equation: Any) -> float:
    given = equation.params
    layout = given["dimension_numbers"]
    (left, right), out = (x.aval.shape for x in equation.invars), equation.outvars[0].aval.shape
    pairs = 1.0
    for n, pad in enumerate(given["padding"]):
        pairs *= window_pairs(
            left[layout.lhs_spec[n + 2]],
            right[layout.rhs_spec[n + 2]],
            out[layout.out_spec[n + 2]],
            stride=given["window_strides"][n],
            pad=pad[0],
            spread=given["lhs_dilation"][n],
            step=given["rhs_dilation"][n],
        )
    outputs, inputs = (right[n] for n in layout.rhs_spec[:2])  # inputs: of one group of features
    return 2.0 * out[layout.out_spec[0]] * outputs * inputs * pairs


@functools.cache
def window_pairs(side: int, kernel: int, out: int, *, stride: int, pad: int, spread: int, step: int) -> int:
    """The number of products of a convolution along one dimension, without those on padding and between the entries of
    a dilated input. ``spread`` and ``step`` are the dilations of input and kernel."""
    place = np.arange(out)[:, None] * stride - pad + np.arange(kernel)[None] * step
    return int(np.sum((place >= 0) & (place <= (side - 1) * spread) & (place % spread == 0)))
