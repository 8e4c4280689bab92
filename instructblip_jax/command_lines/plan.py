"""Memory and step time of a run, before you pay for it:

    instructblip plan --config C --topology v5e:4x4 [--batch_size N] [--lengths 64,64] [--sweep] [--json FILE]

Compiles the real train step, prefill and decoding for a TPU slice or a GPU machine ("h100:8") that need not be present.
Any Linux machine can do this, with libtpu or (pip install -e '.[plan-gpu]') the GPU's compiler. Nothing is downloaded
or allocated. Reports three step times: a lower bound, the sum of each instruction's own bound, and a likely time, by
which --sweep ranks its settings.
The last line states whether the run fits; the exit status is 1 if it does not, unless --sweep (if given) finds settings
that fit.
"""

from collections.abc import Sequence

from absl import flags

from instructblip_jax.command_lines import run_flags
from instructblip_jax.plan import chips

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    run_flags.define_config(argv)
    flags.DEFINE_string("topology", None, "The slice: CHIP:SHAPE, such as v5e:4x4, v4:2x2x4, v5e:4x4*2, h200:8.")
    flags.DEFINE_integer("batch_size", None, "Batch size, instead of the configuration's.")
    flags.DEFINE_list("lengths", ["64", "64"], "Instruction and response tokens to time.")
    flags.DEFINE_bool("sweep", False, "Find the fastest mesh and layout, and the largest batch.")
    flags.DEFINE_string("json", None, "Also write the plan here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if not FLAGS["config"].present or not FLAGS.topology:
        raise ValueError("--config and --topology are needed")
    run_flags.check_config(args)
    chips.parse(FLAGS.topology)
    if len(FLAGS.lengths) != 2 or not all(n.isdigit() and int(n) > 0 for n in FLAGS.lengths):
        raise ValueError(f"--lengths {','.join(FLAGS.lengths)}: two numbers are needed, such as 64,64")
    if FLAGS.batch_size is not None and FLAGS.batch_size < 1:
        raise ValueError(f"--batch_size {FLAGS.batch_size}: it must be at least 1")
