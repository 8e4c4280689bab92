"""Run the paper's ablations: instructblip ablate --config C --workdir W [--seeds 0,1,2] [--json FILE] [-- TRAIN FLAGS]

Trains and evaluates the configuration and each of its variants with every seed, one after the other, each in
W/VARIANT/seed-N; finished runs are neither trained nor evaluated again. Writes W/ablations.md, ablations.json and
ablations.png (mean and standard deviation over the seeds). Flags after "--" go to both `train` and `evaluate`, such
as --config.steps=500.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax.command_lines import series_flags


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("config", None, "Configuration file with VARIANTS, such as configs/digits.py.")
    series_flags.define()


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    series_flags.check(args)
