"""The paper's ablations: instructblip ablate --config C --workdir W [--seeds 0,1,2] [--json FILE] [-- TRAIN FLAGS]

Trains and evaluates the configuration and each of its variants with every seed, one after the other, each in
W/VARIANT/seed-N; finished runs are neither trained nor evaluated again. Writes W/ablations.md, ablations.json and
ablations.png (mean and standard deviation over the seeds). Flags after "--" go to both `train` and `evaluate`, such
as --config.steps=500.
"""

from collections.abc import Sequence

from absl import flags

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("config", None, "Configuration file with VARIANTS, such as configs/digits.py.")
    flags.DEFINE_string("workdir", None, "Directory for all runs and their comparison.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, separated by commas.")
    flags.DEFINE_string("json", None, "Also write the table here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if not FLAGS.config or not FLAGS.workdir:
        raise ValueError("--config and --workdir are needed")
    if not all(seed.isdigit() for seed in FLAGS.seeds):
        raise ValueError(f"--seeds {','.join(FLAGS.seeds)}: whole numbers separated by commas")
    if any(not arg.startswith("--config.") for arg in args):
        raise ValueError(f"after -- only overrides such as --config.steps=500 are allowed, not {' '.join(args)}")
