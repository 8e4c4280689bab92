"""A data set into sharded ArrayRecord (a TFDS data set): instructblip prepare NAME --out DIR [--json FILE]

NAME is digits, the embedded world: all its task sets, drawn from scikit-learn's scans. What is there is left as it is.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from instructblip_jax.data.digits.prepare import prepare

FLAGS = flags.FLAGS
NAMES = ("digits",)


def define_flags() -> None:
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
    splits = {
        f"{name}/{split}": {"written": count, "skipped": 0, "reasons": {}}
        for name, counts in written.items()
        for split, count in counts.items()
    }
    for name, row in splits.items():
        print(f"{name:<28} {row['written']:>7,} written")
    print(f"{FLAGS.out}: {'ready' if splits else 'everything was there already'}")
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps({"splits": splits}, indent=2) + "\n", encoding="utf-8")
