"""A data set into sharded ArrayRecord (a TFDS data set): instructblip prepare NAME --out DIR [--json FILE]

NAME is digits, the embedded world: all its task sets, drawn from scikit-learn's scans. What is there is left as it is.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax import files
from instructblip_jax.data import builder
from instructblip_jax.data.digits.prepare import prepare
from instructblip_jax.data.digits.tasks import TASKS

FLAGS = flags.FLAGS
NAMES = ("digits",)


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("out", None, "Directory to write the sets under.")
    flags.DEFINE_string("json", None, "Also write the report here, for programs.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if len(args) != 1 or args[0] not in NAMES:
        raise ValueError(f"one NAME is needed, of {', '.join(NAMES)}; not {' '.join(args) or 'none'}")
    if not FLAGS.out:
        raise ValueError("--out is needed")


def run(args: Sequence[str]) -> None:
    """Write what is missing and report it."""
    written = prepare(FLAGS.out)
    splits = {}
    for name in TASKS:
        for split, count in builder.sizes(FLAGS.out, name).items():
            splits[f"{name}/{split}"] = {"written": count, "skipped": 0, "reasons": {}}
            print(f"{name + '/' + split:<28} {count:>7,} records{'' if name in written else ', there already'}")
    if FLAGS.json:
        files.write_json(FLAGS.json, {"splits": splits})
