"""AdamW as the paper sets it (arXiv 2305.06500, section 2.6; instruction tuning of BLIP-2)."""

import dataclasses
from collections.abc import Mapping

import jax
import optax

NO_DECAY = ("bias", "scale")
"""Last parts of the paths of biases and norms, which weight decay leaves alone. Query tokens do decay."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The paper's settings: 1e-8 up to 1e-5 in 1,000 steps, then a cosine to 0; no clipping (``clip_norm`` 0).

    ``accumulation`` splits every batch into so many equal parts whose gradients are added before the update.
    ``spike_factor``: a step whose loss is more than so many times the running mean changes nothing (0: never).
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
            raise ValueError(f"optim.accumulation is {self.accumulation}; it is 1 (none) or more")
        if self.warmup_steps < 0 or self.learning_rate <= 0:
            raise ValueError("optim.warmup_steps must not be negative, and optim.learning_rate must be positive")
        if self.spike_factor != 0 and self.spike_factor <= 1:
            raise ValueError(f"optim.spike_factor is {self.spike_factor}; it is 0 (no step is skipped) or more than 1")


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from ``warmup_start``, then a cosine that ends at ``final_learning_rate`` after ``steps``."""
    warmup = min(config.warmup_steps, steps)
    rise = optax.linear_schedule(config.warmup_start, config.learning_rate, max(1, warmup))
    fall = optax.cosine_decay_schedule(
        config.learning_rate, max(1, steps - warmup), config.final_learning_rate / config.learning_rate
    )
    return optax.join_schedules([rise, fall], [warmup])


def decays(train: Mapping[str, jax.Array]) -> dict[str, bool]:
    """Path -> whether weight decay acts on it."""
    return {path: path.rsplit("/", 1)[-1] not in NO_DECAY for path in train}


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Clip by the global norm (if asked), then AdamW with decoupled decay, over a flat dict path -> array."""
    adamw = optax.adamw(
        schedule(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=decays,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm > 0 else adamw
