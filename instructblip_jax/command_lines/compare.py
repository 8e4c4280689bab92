"""Compare several systems: instructblip compare --config C1,C2,... --workdir W [--seeds 0,1,2] [-- TRAIN FLAGS]

C is FILE.py or FILE.py:VARIANT; a file with SYSTEMS, such as configs/compare.py, stands for all of these variants.
Trains and evaluates each with every seed, one after the other, each in W/NAME/seed-N; finished runs are neither trained
nor evaluated again. Writes W/compare.md, compare.json and, with the demo extra, compare.png: trainable parameters,
FLOPs and seconds per sample, the frozen parts that systems share, and scores with their intervals. Flags after "--" go
to both `train` and `evaluate` of all runs, such as --config.steps=500.
"""

import re
from collections.abc import Sequence

from absl import flags

from instructblip_jax.command_lines import series_flags

FLAGS = flags.FLAGS
APART = ("model", "trainable", "system", "image_size")
"""Fields in which systems differ; an override would suit only one of them."""


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_list("config", [], "Configurations, FILE.py or FILE.py:VARIANT, separated by commas.")
    series_flags.define()


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    series_flags.check(args)
    for arg in args:
        override = re.match(r"--config\.(\w+)", arg)
        if override is None or override[1] in APART:
            raise ValueError(f"{arg}: only overrides for all systems may follow --, such as --config.steps=500")
