"""Caption and filter web images: instructblip capfilt --captioner M --filter M --source PATH --out DIR

CapFilt (arXiv 2201.12086): the captioner writes a caption for every image, and the filter keeps each text, the web's or
the captioner's, that matches the image. PATH is a folder of images and texts, a JSONL file, a tar archive
or a folder of these; it may be repeated. The kept pairs become a prepared set that `train` takes, DIR/NAME. The
same command continues an interrupted run. Started on several hosts, each does a share, and the result is the same.
All texts stay in DIR/NAME/texts with their scores: another --threshold or --keep, with --overwrite, does not run the
models again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from instructblip_jax import files
from instructblip_jax.decoding.options import Options

FLAGS = flags.FLAGS
GENERATION = ("max_new_tokens", "min_new_tokens", "top_p", "top_k", "temperature", "repetition_penalty")


def define_flags(argv: Sequence[str]) -> None:
    """Define the flags of this command."""
    flags.DEFINE_string("captioner", None, "Model directory, or a hub id, of a system that generates text.")
    flags.DEFINE_string("filter", None, "Model directory, or a hub id, of a system that compares images with texts.")
    flags.DEFINE_multi_string("source", [], "Web images with texts: a folder or a file; may be repeated.")
    flags.DEFINE_multi_string("images", [], "Directory to search for images; may be repeated.")
    flags.DEFINE_string("out", None, "Directory of the prepared sets.")
    flags.DEFINE_string("name", None, "The set's name. Default: capfilt_ and the first source's.")
    flags.DEFINE_float("threshold", 0.5, "A text is kept if its match probability is above this.", 0.0, 1.0)
    flags.DEFINE_integer("captions", 1, "Number of captions per image.", lower_bound=1)
    flags.DEFINE_integer(
        "keep", 0, "Maximum number of texts kept per image, the most probable ones; 0 means all.", lower_bound=0
    )
    flags.DEFINE_string("prompt", "a picture of", "The captioner's prompt or instruction.")
    flags.DEFINE_integer("max_new_tokens", 16, "Longest caption in tokens, without the prompt.")
    flags.DEFINE_integer("min_new_tokens", 1, "Shortest caption in tokens.")
    flags.DEFINE_float("top_p", 0.9, "Sample from the most likely tokens that together have this probability.")
    flags.DEFINE_integer("top_k", 50, "Sample from this many of the most likely tokens; 0 means all.")
    flags.DEFINE_float("temperature", 1.0, "Below 1 samples likely tokens more often, above 1 less often.")
    flags.DEFINE_float("repetition_penalty", 1.1, "Above 1 penalises repeated words.")
    flags.DEFINE_integer("seed", 0, "Seed for the captions.", lower_bound=0)
    flags.DEFINE_integer("batch_size", 64, "Images per batch on each host.", lower_bound=1)
    flags.DEFINE_integer(
        "fsdp", 1, "Number of devices of a host that the weights are sharded over, if they do not fit on one."
    )
    flags.DEFINE_string("dtype", "bfloat16", "Compute type.")
    flags.DEFINE_integer("workers", None, "Processes that write the set. Default: one per core.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Make an existing set again; it stays until the new one is complete.")
    flags.DEFINE_string("json", None, "Also write the report here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError or FileNotFoundError for a wrong command line."""
    if args:
        raise ValueError(f"unexpected arguments: {' '.join(args)}")
    for name in ("captioner", "filter", "source", "out"):
        if not FLAGS[name].value:
            raise ValueError(f"--{name} is needed")
    for path in (*FLAGS.source, *FLAGS.images):
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: no such file or directory")
    Options.of(ends=0, pad=0, vocabulary=1, do_sample=True, **generation())
    files.check_json(FLAGS.json)


def generation() -> dict[str, Any]:
    """The generation flags, under the names of `Options.of`."""
    return {name: getattr(FLAGS, name) for name in GENERATION}
