"""The lines that `train` prints about a run before its first step."""

import sys
from pathlib import Path

from instructblip_jax import distributed
from instructblip_jax.mesh import described
from instructblip_jax.model import Model
from instructblip_jax.run.config import RunConfig
from instructblip_jax.run.open_data import Data, total_steps
from instructblip_jax.train.optimizer import schedule


def run(config: RunConfig, model: Model, data: Data, start: int) -> None:
    """Print the sizes of the model and the mesh, the first step, the mixture, and the lengths fitted to it."""
    trained = sum(x.size for x in model.train.values())
    frozen = sum(x.size for x in model.frozen.values())
    where = f"from step {start}" if start else "from the start"
    name = Path(config.model).name
    print(f"{name}: {trained:,} trained and {frozen:,} frozen parameters; {described(model.mesh)}; {where}")
    for name, group in data.groups.items():
        of = f"group {name}, {group.rows} rows of each step, weight {group.weight:g}: " if name else "mixture: "
        print(of + ", ".join(f"{name} {100 * share:.1f} %" for name, share in group.mixture.items()))
        if group.fitted:
            print("text shapes: " + ", ".join(f"{a} + {b}" for a, b in group.shapes))
    sys.stdout.flush()


def further(shorter: RunConfig, config: RunConfig, data: Data, updates: int) -> None:
    """Print the jump of the learning rate if a finished run is given more steps. One process prints it.

    ``updates``: optimizer updates so far, skipped steps excluded.
    """
    before = total_steps(shorter, sum(map(len, data.sources.values())))
    old, new = (float(schedule(config.optim, steps)(updates)) for steps in (before, data.steps))
    if distributed.is_writer():
        print(
            f"training on: {data.steps} steps where {before} were planned. From here on the schedule is that of "
            f"{data.steps} steps, so the learning rate goes from {old:.3g} to {new:.3g}",
            flush=True,
        )
