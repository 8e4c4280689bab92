"""Evaluate a run: instructblip evaluate --config C --workdir W [--checkpoint STEP] [--split test] [--json FILE]

One row per set of the configured suite: its metric with a 95 % interval, the paper's number if the model is one of the
paper's, and, unless config.evaluation.blind is off, its metric with blank images. Writes W/evaluation.md, .json and
.png, the predictions in W/predictions/SET.jsonl, a sample of them with their images in W/predictions.html, and
W/submissions/SET.json for sets that have an evaluation server. Continues an interrupted evaluation; --again starts
over.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax import files
from instructblip_jax.command_lines import run_flags

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    run_flags.define(argv)
    flags.DEFINE_integer("checkpoint", None, "Step of the checkpoint to evaluate; the default is the newest.")
    flags.DEFINE_enum(
        "split",
        None,
        ["validation", "test"],
        "Split of the sets without an official one. Default: test, or validation if there is no test.",
    )
    flags.DEFINE_bool("int8", False, "Store the language model's matrices as int8: half the memory of bfloat16.")
    flags.DEFINE_bool("again", False, "Discard this checkpoint's predictions and start over.")
    flags.DEFINE_string("json", None, "Also write the table here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    run_flags.check(args)
    files.check_json(FLAGS.json)
