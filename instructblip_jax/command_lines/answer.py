"""Answer about images: instructblip answer --model M [--workdir W] --image F [--image F2] "INSTRUCTION" ...

X-InstructBLIP also takes audio, point clouds and video: --media audio=F --media pc=F --media video=F. All media then
belong to one prompt, images first.

Prints one answer per line, for each image and each instruction; --workdir uses the trained parameters of a run. On a
terminal, a single answer is printed while it is generated. --candidates "yes,no" ranks these answers instead. A model
that only compares (BLIP or ALBEF in retrieval) prints the similarity and match probability of each image and text.
--look FILE.png draws what the model's queries attend to in the image, one row per instruction.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from instructblip_jax.decoding.options import Options

FLAGS = flags.FLAGS
OPTIONS = ("max_new_tokens", "num_beams", "length_penalty", "repetition_penalty", "do_sample")
SAMPLING = ("temperature", "top_k", "top_p")


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string(
        "model", None, "Model directory in the Hugging Face layout, or a hub id; the default is that of --workdir."
    )
    flags.DEFINE_string("workdir", None, "Workdir of a `train` run whose trained parameters are used.")
    flags.DEFINE_multi_string("image", [], "Image file; may be repeated.")
    flags.DEFINE_multi_string("media", [], "MODALITY=FILE, for models that take audio, pc or video; may be repeated.")
    flags.DEFINE_bool(
        "frames", False, "The images belong to one prompt, in order: several images (LLaVA), or the frames of a video."
    )
    flags.DEFINE_list("candidates", [], 'Answers to rank by log-likelihood, such as "yes,no".')
    flags.DEFINE_integer("max_new_tokens", 64, "Longest answer, in tokens.")
    flags.DEFINE_integer("num_beams", 1, "Number of beams; 1 means no beam search.")
    flags.DEFINE_float("length_penalty", 1.0, "Beam search: above 0 favours long answers, below 0 short ones.")
    flags.DEFINE_float("repetition_penalty", 1.0, "Above 1 penalises repeated words; the original used 1.5.")
    flags.DEFINE_bool("do_sample", False, "Sample each token by its probability, as the flags below specify.")
    flags.DEFINE_float("temperature", 1.0, "Below 1 samples likely tokens more often, above 1 less often.")
    flags.DEFINE_integer("top_k", 50, "Sample from this many of the most likely tokens; 0 means all.")
    flags.DEFINE_float("top_p", 1.0, "Sample from the most likely tokens that together have this probability.")
    flags.DEFINE_integer("seed", 0, "Seed for sampling.", lower_bound=0, upper_bound=2**32 - 1)
    flags.DEFINE_string("dtype", None, "Compute type; the default is the run's, or bfloat16.")
    flags.DEFINE_bool("int8", False, "Store the language model's matrices as int8: half the memory of bfloat16.")
    flags.DEFINE_string("look", None, "Draw the attention of the model's queries over the image to this PNG file.")
    flags.DEFINE_string("json", None, "Also write the answers here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if not (FLAGS.model or FLAGS.workdir) or not (FLAGS.image or FLAGS.media):
        raise ValueError("--model (or --workdir) and --image are needed")
    if FLAGS.look and (len(FLAGS.image) != 1 or FLAGS.media) and not FLAGS.frames:
        raise ValueError("--look draws one image: give one --image, and no --media")
    if FLAGS.look and not FLAGS.look.lower().endswith(".png"):
        raise ValueError(f"--look {FLAGS.look}: it must be a PNG file, such as look.png")
    if wrong := next((one for one in FLAGS.media if not all(one.partition("="))), None):
        raise ValueError(f"--media {wrong}: it must be MODALITY=FILE, such as audio=bird.flac")
    if not args:
        raise ValueError('at least one instruction is needed; a captioner\'s may be empty, ""')
    if not all(text.strip() for text in FLAGS.candidates):
        raise ValueError(f"--candidates {FLAGS.candidates}: none may be empty")
    if not FLAGS.do_sample and (unused := [name for name in (*SAMPLING, "seed") if FLAGS[name].present]):
        raise ValueError(f"--{unused[0]} has no effect without --do_sample")
    Options.of(ends=0, pad=0, vocabulary=1, **generation())


def media() -> dict[str, list[str]]:
    """The files of --media by modality, in the order in which modalities are first named."""
    found: dict[str, list[str]] = {}
    for modality, _, file in (one.partition("=") for one in FLAGS.media):
        found.setdefault(modality, []).append(file)
    return found


def generation() -> dict[str, Any]:
    """The generation flags, under the names of `Options.of`."""
    return {name: getattr(FLAGS, name) for name in OPTIONS + SAMPLING}
