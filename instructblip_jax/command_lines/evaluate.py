"""The configured suite: instructblip evaluate --config C --workdir W [--checkpoint STEP] [--split test] [--json FILE]

One row a set: its metric with a 95 % interval, the paper's number where the model is the paper's, and, unless
config.evaluation.blind is off, its metric with all pictures blanked. Writes W/evaluation.md, .json and .png, what was
answered in W/predictions/SET.jsonl, and W/submissions/SET.json for the sets that have an evaluation server. Goes on
where it was stopped; --again judges anew.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax import files
from instructblip_jax.command_lines import run_flags

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    run_flags.define(argv)
    flags.DEFINE_integer("checkpoint", None, "Step of the checkpoint to judge; the newest if not given.")
    flags.DEFINE_enum(
        "split",
        None,
        ["validation", "test"],
        "Which split of the sets that have no official one. Default: test, or validation where there is no test.",
    )
    flags.DEFINE_bool("int8", False, "Judge with the language model's matrices as int8: half the memory of bfloat16.")
    flags.DEFINE_bool("again", False, "Judge anew what this checkpoint has answered already.")
    flags.DEFINE_string("json", None, "Also write the table here, for programs.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    run_flags.check(args)
    files.check_json(FLAGS.json)
