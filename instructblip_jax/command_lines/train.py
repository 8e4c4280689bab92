"""Instruction tuning: instructblip train --config C --workdir W [--json FILE] [--profile FIRST:LAST]

Resumes from W automatically, and continues a finished run that is given more steps. Checkpoints hold the trained
parameters, the optimizer and the position in the data only. On SIGTERM it finishes the current step, saves, and exits
with code 143.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax.command_lines import run_flags

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    run_flags.define(argv)
    flags.DEFINE_string("json", None, "Also write losses and weights_sha256 here as JSON.")
    flags.DEFINE_string("profile", None, "FIRST:LAST, the steps to trace with the profiler, into W/profile.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    run_flags.check(args)
    if FLAGS.profile is not None:
        traced(FLAGS.profile)


def traced(text: str) -> range:
    """The steps of --profile "FIRST:LAST", both included. Raises ValueError unless 1 <= FIRST <= LAST."""
    first, _, last = text.partition(":")
    steps = range(int(first), int(last) + 1) if first.isdecimal() and last.isdecimal() else range(0)
    if not steps or steps[0] < 1:
        raise ValueError(f"--profile {text!r}: give the first and the last step to trace, such as 20:24")
    return steps
