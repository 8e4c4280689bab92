"""The flags of the commands that make a series of runs: --workdir W, --seeds, --json, and overrides after "--"."""

from collections.abc import Sequence

from absl import flags

from instructblip_jax import files

FLAGS = flags.FLAGS


def define() -> None:
    """Define all but --config, which each of these commands reads in its own way."""
    flags.DEFINE_string("workdir", None, "Directory for all runs and their comparison.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, separated by commas.")
    flags.DEFINE_string("json", None, "Also write the table here as JSON.")


def check(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if not FLAGS.config or not FLAGS.workdir:
        raise ValueError("--config and --workdir are needed")
    seeds = FLAGS.seeds
    if not seeds or not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {','.join(seeds)}: different whole numbers separated by commas")
    if any(not arg.startswith("--config.") for arg in args):
        raise ValueError(f"after -- only overrides such as --config.steps=500 are allowed, not {' '.join(args)}")
    files.check_json(FLAGS.json)
