"""Answers about pictures: instructblip answer --model M [--workdir W] --image F [--image F2] "INSTRUCTION" ...

One answer a line, for each image and instruction in turn; --workdir takes the trained parameters of a run.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from instructblip_jax.checkpoint import fingerprint
from instructblip_jax.generate.text import generate
from instructblip_jax.model import InstructBlip
from instructblip_jax.processors.image import open_image
from instructblip_jax.processors.processor import Processor
from instructblip_jax.workdir import Workdir

FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("model", None, "Model directory in the Hugging Face layout, or a hub id.")
    flags.DEFINE_string("workdir", None, "Directory of a run of `train` whose trained parameters are used.")
    flags.DEFINE_multi_string("image", [], "Picture file; may be given several times.")
    flags.DEFINE_integer("max_new_tokens", 64, "Longest answer, in tokens.", lower_bound=1)
    flags.DEFINE_string("dtype", None, "Compute type; by default the run's, or bfloat16.")
    flags.DEFINE_string("json", None, "Also write the answers here, for programs.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if not FLAGS.model or not FLAGS.image:
        raise ValueError("--model and --image are needed")
    if not args or not all(text.strip() for text in args):
        raise ValueError("at least one instruction is needed, and none may be empty")


def run(args: Sequence[str]) -> None:
    """Answer every instruction about every picture."""
    pictures = [open_image(path) for path in FLAGS.image]  # before the model: a bad path is told at once
    options: dict[str, Any] = {"dtype": "bfloat16"}
    workdir = Workdir(FLAGS.workdir) if FLAGS.workdir else None
    if workdir is not None:
        saved = workdir.saved_config()
        options = {name: saved[name] for name in ("dtype", "trainable", "instruct_qformer")}
    if FLAGS.dtype:
        options["dtype"] = FLAGS.dtype
    model = InstructBlip.from_pretrained(FLAGS.model, **options)
    if workdir is not None:
        workdir.restore_into(model.train, None, fingerprint(model.directory))
    processor = Processor.from_pretrained(model.directory)
    for text in args:
        unknown = processor.tokenizer.unknown(text)
        if len(unknown) == len(text.split()):
            raise ValueError(f"instruction {text!r}: the model knows none of its words")
        if unknown:
            print(f"note: the model does not know {', '.join(unknown)}", file=sys.stderr)
    pairs = [(picture, text) for picture in pictures for text in args]
    answers = generate(model, processor, *zip(*pairs, strict=True), max_new_tokens=FLAGS.max_new_tokens)
    print("\n".join(answers))
    if FLAGS.json:
        asked = [(path, text) for path in FLAGS.image for text in args]
        rows = [{"image": p, "instruction": t, "answer": a} for (p, t), a in zip(asked, answers, strict=True)]
        Path(FLAGS.json).write_text(json.dumps({"answers": rows}, indent=2) + "\n", encoding="utf-8")
