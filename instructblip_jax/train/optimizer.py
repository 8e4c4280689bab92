"""AdamW with the paper's settings (arXiv 2305.06500, section 2.6: instruction tuning), and optional rates by path."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Literal

import jax
import optax

from instructblip_jax.systems.trainable import trains

NO_DECAY = ("bias", "scale")
"""Last path components of biases and norm scales, which have no weight decay. Query tokens do."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer settings. The defaults are the paper's: from 1e-8 to 1e-5 in 1,000 steps, then a cosine decay to 0.

    ``decay``: "cosine" or "linear", to ``final_learning_rate`` at the last step. ``clip_norm``: maximum global gradient
    norm, 0 for no clipping. ``accumulation``: number of equal micro-batches of every batch; their gradients are added
    before the update. ``spike_factor``: skip steps whose loss is more than this many times the running mean; 0 skips
    none. ``rates``: path prefix, as in trainable sets -> factor on the learning rate of the parameters under it; the
    longest prefix applies. ``undecayed``: path prefixes of parameters without weight decay, in addition to biases and
    norms.

    Raises ValueError naming a field that is out of range.
    """

    learning_rate: float = 1e-5
    warmup_steps: int = 1000
    warmup_start: float = 1e-8
    final_learning_rate: float = 0.0
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 0.0
    accumulation: int = 1
    spike_factor: float = 0.0
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    decay: Literal["cosine", "linear"] = "cosine"
    undecayed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise ValueError(f"optim.accumulation is {self.accumulation}; it must be at least 1 (no accumulation)")
        if self.warmup_steps < 0 or self.learning_rate <= 0:
            raise ValueError("optim.warmup_steps must not be negative, and optim.learning_rate must be positive")
        if self.spike_factor != 0 and self.spike_factor <= 1:
            raise ValueError(
                f"optim.spike_factor is {self.spike_factor}; it must be 0 (no step is skipped) or more than 1"
            )
        for prefix, factor in self.rates.items():
            if factor < 0:
                raise ValueError(f"optim.rates[{prefix!r}] is {factor}; it must not be negative")


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from ``warmup_start``, then decay to ``final_learning_rate`` at step ``steps``."""
    warmup = min(config.warmup_steps, steps)
    rise = optax.linear_schedule(config.warmup_start, config.learning_rate, max(1, warmup))
    first, last, left = config.learning_rate, config.final_learning_rate, max(1, steps - warmup)
    if config.decay == "linear":
        fall = optax.linear_schedule(first, last, left)
    else:
        fall = optax.cosine_decay_schedule(first, left, last / first)
    return optax.join_schedules([rise, fall], [warmup])


def decays(train: Mapping[str, jax.Array], undecayed: tuple[str, ...] = ()) -> dict[str, bool]:
    """Weight decay mask: path -> True if the parameter has weight decay; False under the prefixes ``undecayed``.

    Raises ValueError for a prefix without trainable parameters.
    """
    for prefix in undecayed:
        if not any(trains(path, (prefix,)) for path in train):
            raise ValueError(f"optim.undecayed names {prefix!r}, and this run trains nothing under it")
    return {path: path.rsplit("/", 1)[-1] not in NO_DECAY and not trains(path, undecayed) for path in train}


def scaled(rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Updates times the factor of their path, weight decay included, which is equivalent to separate learning rates.

    ``init`` raises ValueError for a prefix without trainable parameters.
    """

    def factor(path: str) -> float:
        above = [prefix for prefix in rates if trains(path, (prefix,))]
        return rates[max(above, key=len)] if above else 1.0

    def init(train: Mapping[str, jax.Array]) -> optax.EmptyState:
        for prefix in rates:
            if not any(trains(path, (prefix,)) for path in train):
                raise ValueError(f"optim.rates names {prefix!r}, and this run trains nothing under it")
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.EmptyState, train: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        assert isinstance(updates, dict)
        return {path: x * factor(path) for path, x in updates.items()}, state

    return optax.GradientTransformation(init, update)


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Global-norm clipping (if configured), then AdamW with decoupled weight decay and the factors of ``rates``, for a
    flat dict path -> array."""
    adamw = optax.adamw(
        schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=partial(decays, undecayed=config.undecayed),
    )
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    chain += [adamw, *([scaled(config.rates)] if config.rates else [])]
    return optax.chain(*chain) if len(chain) > 1 else adamw
