"""Score predictions of any model: instructblip score METRIC --predictions P.jsonl --references R.jsonl

docs/metrics.md describes each METRIC and the format of both files. Rows are joined by id; a reference without a
prediction counts as wrong. Prints the score times 100 with its 95 % bootstrap interval; --json FILE has it unscaled.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax import files
from instructblip_jax.evals.metrics import METRICS

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("predictions", None, "JSON lines or a list; each row has an id, and a prediction or scores.")
    flags.DEFINE_string("references", None, "JSON lines or a list; each row has an id, and answers or a label.")
    flags.DEFINE_string("json", None, "Also write the scores here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if len(args) != 1 or args[0] not in METRICS:
        raise ValueError(f"one METRIC is needed, of {', '.join(METRICS)}; not {' '.join(args) or 'none'}")
    if not FLAGS.predictions or not FLAGS.references:
        raise ValueError("--predictions and --references are needed")
    files.check_json(FLAGS.json)
