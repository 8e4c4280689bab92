"""A momentum system's memory in the middle of a run, for the tests that compare ALBEF and BLIP with a statement."""

import jax.numpy as jnp
import numpy as np

from instructblip_jax.convert import save
from instructblip_jax.systems import momentum


def memory(model, rng):
    """Copies that have moved away from their parameters, and queues that hold pictures and stand before their end."""
    found = {
        name: x + 0.1 * rng.standard_normal(x.shape, np.float32) if name.startswith(momentum.COPY) else x
        for name, x in model.memory.items()
    }
    if momentum.PICTURES in found:
        found[momentum.PICTURES] = jnp.array([1, -100, 7, 0, 1, 5])
        found[momentum.PLACE] = jnp.array(4)
    return found


def copies(found, rules):
    """The copies of a memory under the names of their parameters' tensors."""
    moved = {name.removeprefix(momentum.COPY): x for name, x in found.items() if name.startswith(momentum.COPY)}
    return dict(save.tensors(rules, moved))
