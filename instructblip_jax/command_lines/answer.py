"""Answers about pictures: instructblip answer --model M [--workdir W] --image F [--image F2] "INSTRUCTION" ...

One answer a line, for each image and instruction in turn; --workdir takes the trained parameters of a run. A single
answer is told as it is written where a person watches. --candidates "yes,no" ranks these answers instead.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from instructblip_jax.decoding.options import Options

FLAGS = flags.FLAGS
OPTIONS = ("max_new_tokens", "num_beams", "length_penalty", "repetition_penalty", "do_sample")
SAMPLING = ("temperature", "top_k", "top_p")


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("model", None, "Model directory in the Hugging Face layout, or a hub id.")
    flags.DEFINE_string("workdir", None, "Directory of a run of `train` whose trained parameters are used.")
    flags.DEFINE_multi_string("image", [], "Picture file; may be given several times.")
    flags.DEFINE_bool("frames", False, "The pictures are the frames of one video, in order.")
    flags.DEFINE_list("candidates", [], 'Answers to rank, "yes,no": each with its log-likelihood, the likeliest first.')
    flags.DEFINE_integer("max_new_tokens", 64, "Longest answer, in tokens.")
    flags.DEFINE_integer("num_beams", 1, "Beams; 1 takes the likeliest token at every step.")
    flags.DEFINE_float("length_penalty", 1.0, "Above 0 prefers long answers of beams, below 0 short ones.")
    flags.DEFINE_float("repetition_penalty", 1.0, "Above 1 avoids words that were said; the original used 1.5.")
    flags.DEFINE_bool("do_sample", False, "Draw each token by its probability; the flags below say how.")
    flags.DEFINE_float("temperature", 1.0, "Below 1 draws likely tokens more often, above 1 less often.")
    flags.DEFINE_integer("top_k", 50, "Draw among so many of the likeliest tokens; 0 is all.")
    flags.DEFINE_float("top_p", 1.0, "Draw among the likeliest tokens that have this probability together.")
    flags.DEFINE_integer("seed", 0, "The same seed draws the same.", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_string("dtype", None, "Compute type; by default the run's, or bfloat16.")
    flags.DEFINE_bool("int8", False, "Keep the language model's matrices as int8: half the memory of bfloat16.")
    flags.DEFINE_string("json", None, "Also write the answers here, for programs.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if not FLAGS.model or not FLAGS.image:
        raise ValueError("--model and --image are needed")
    if not args or not all(text.strip() for text in args):
        raise ValueError("at least one instruction is needed, and none may be empty")
    if not all(text.strip() for text in FLAGS.candidates):
        raise ValueError(f"--candidates {FLAGS.candidates}: none may be empty")
    if not FLAGS.do_sample and (unused := [name for name in (*SAMPLING, "seed") if FLAGS[name].present]):
        raise ValueError(f"--{unused[0]} changes nothing without --do_sample")
    Options.of(ends=0, pad=0, vocabulary=1, **generation())


def generation() -> dict[str, Any]:
    """The generation flags, under the names of `Options.of`."""
    return {name: getattr(FLAGS, name) for name in OPTIONS + SAMPLING}
