"""AdamW with the paper's settings (arXiv 2305.06500, section 2.6: instruction tuning)."""

import dataclasses
from collections.abc import Mapping

import jax
import optax

NO_DECAY = ("bias", "scale")
"""Last path components of biases and norm scales, which are not decayed. Query tokens are."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer settings. The defaults are the paper's: from 1e-8 to 1e-5 in 1,000 steps, then a cosine decay to 0.

    ``clip_norm``: maximum global gradient norm, 0 for no clipping. ``accumulation``: number of equal micro-batches of
    every batch; their gradients are added before the update. ``spike_factor``: skip steps whose loss is more than this
    many times the running mean; 0 skips none.

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

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise ValueError(f"optim.accumulation is {self.accumulation}; it must be at least 1 (no accumulation)")
        if self.warmup_steps < 0 or self.learning_rate <= 0:
            raise ValueError("optim.warmup_steps must not be negative, and optim.learning_rate must be positive")
        if self.spike_factor != 0 and self.spike_factor <= 1:
            raise ValueError(
                f"optim.spike_factor is {self.spike_factor}; it must be 0 (no step is skipped) or more than 1"
            )


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from ``warmup_start``, then cosine decay to ``final_learning_rate`` at step ``steps``."""
    warmup = min(config.warmup_steps, steps)
    rise = optax.linear_schedule(config.warmup_start, config.learning_rate, max(1, warmup))
    fall = optax.cosine_decay_schedule(
        config.learning_rate, max(1, steps - warmup), config.final_learning_rate / config.learning_rate
    )
    return optax.join_schedules([rise, fall], [warmup])


def decays(train: Mapping[str, jax.Array]) -> dict[str, bool]:
    """Weight-decay mask: path -> True if the parameter is decayed."""
    return {path: path.rsplit("/", 1)[-1] not in NO_DECAY for path in train}


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Global-norm clipping (if configured), then AdamW with decoupled weight decay, over a flat dict path -> array."""
    adamw = optax.adamw(
        schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=decays,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm > 0 else adamw
