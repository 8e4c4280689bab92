"""Convert files to a model directory: instructblip convert --out DIR (--blip2 DIR --bert DIR | --original FILE ...)

--blip2 and --bert (bert-base-uncased) make an InstructBLIP before instruction tuning; with --language_model, a plain T5
or LLaMA (Vicuna) replaces BLIP-2's language model. `instructblip assemble` makes the same, and more.

--original converts a file of an original project. With --model, it is a .pth file of LAVIS, whose trained parts replace
those of the model: an InstructBLIP, or a first stage of BLIP-2 (Blip2ForImageTextRetrieval), which then also gets the
file's temperature and head. With --bert (bert-base-uncased, for its tokenizer), it is a .pth file of BLIP's or ALBEF's
authors, which contains a whole model. Alone, it is a pytorch_model.bin with the accompanying files in its directory.
"""

from collections.abc import Sequence

from absl import flags

FLAGS = flags.FLAGS
MODES = "either --blip2 and --bert (with --language_model, or without), or --original (with --model, --bert, or alone)"
ORIGINAL = ({"original", "model"}, {"original", "bert"}, {"original"})


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("out", None, "Directory to write; it must not exist, or be empty.")
    flags.DEFINE_string("blip2", None, "BLIP-2 directory, or a hub id.")
    flags.DEFINE_string("bert", None, "BERT directory (bert-base-uncased) with its tokenizer, or a hub id.")
    flags.DEFINE_string("language_model", None, "Plain T5 or LLaMA directory, or a hub id; by default BLIP-2's.")
    flags.DEFINE_integer("seed", 0, "Seed for the embeddings of new tokens and for a new projection.", lower_bound=0)
    flags.DEFINE_string("original", None, "A .pth file of an original project, or a pytorch_model.bin.")
    flags.DEFINE_string("model", None, "Model directory, or a hub id, that provides towers and tokenizers.")
    flags.DEFINE_float("max_shard_gb", 5.0, "Maximum size of a weight file, in GB.", lower_bound=1e-9)
    flags.DEFINE_string("json", None, "Also write the report here as JSON.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if args:
        raise ValueError(f"unexpected {' '.join(args)}")
    if not FLAGS.out:
        raise ValueError("--out is needed")
    given = {name for name in ("blip2", "bert", "language_model", "original", "model") if FLAGS[name].value}
    if given - {"language_model"} != {"blip2", "bert"} and given not in ORIGINAL:
        raise ValueError(f"{MODES}; not {', '.join(f'--{name}' for name in sorted(given)) or 'none of them'}")
