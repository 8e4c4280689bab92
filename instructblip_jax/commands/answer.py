"""Answers about pictures: instructblip answer --model M [--workdir W] --image F [--image F2] "INSTRUCTION" ...

One answer a line, for each image and instruction in turn; --workdir takes the trained parameters of a run. A single
answer is told as it is written where a person watches. --candidates "yes,no" ranks these answers instead.
"""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from instructblip_jax import distributed, files
from instructblip_jax.checkpoint import fingerprint
from instructblip_jax.generate.options import Options
from instructblip_jax.generate.rank import rank
from instructblip_jax.generate.text import generate, stream
from instructblip_jax.mesh import make_mesh
from instructblip_jax.model import InstructBlip
from instructblip_jax.processors.image import open_image
from instructblip_jax.processors.processor import Processor
from instructblip_jax.workdir import Workdir

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
    Options.of(ends=0, pad=0, vocabulary=1, **_options())


def _options() -> dict[str, Any]:
    return {name: getattr(FLAGS, name) for name in OPTIONS + SAMPLING}


def load() -> tuple[InstructBlip, Processor]:
    """The model that the flags name, with the trained parameters of a run if they name one."""
    options: dict[str, Any] = {"dtype": "bfloat16"}
    workdir = Workdir(FLAGS.workdir) if FLAGS.workdir else None
    if workdir is not None:
        saved = workdir.saved_config()
        options = {name: getattr(saved, name) for name in ("dtype", "trainable", "instruct_qformer", "image_size")}
    if FLAGS.dtype:
        options["dtype"] = FLAGS.dtype
    mesh = make_mesh(data=1, fsdp=-1) if jax.process_count() > 1 else None
    model = InstructBlip.from_pretrained(FLAGS.model, mesh, **options, int8=FLAGS.int8)
    if workdir is not None:
        workdir.restore_into(model.train, None, fingerprint(model.directory))
    return model, Processor.from_pretrained(model.directory, image_size=model.config.vision.image_size)


def answer(model: InstructBlip, processor: Processor, pictures: list, texts: list[str]) -> list[dict[str, Any]]:
    """Print one answer a line, and return them."""
    options = _options() | {"seed": FLAGS.seed}
    if len(texts) == 1 and sys.stdout.isatty() and jax.process_count() == 1:  # all processes must do the same
        pieces = []
        for piece in stream(model, processor, pictures[0], texts[0], **options):
            print(piece, end="", flush=True)
            pieces.append(piece)
        print()
        return [{"answer": "".join(pieces)}]
    answers = generate(model, processor, pictures, texts, **options)
    print("\n".join(answers))
    return [{"answer": text} for text in answers]


def choose(model: InstructBlip, processor: Processor, pictures: list, texts: list[str]) -> list[dict[str, Any]]:
    """Print each row's candidates with their log-likelihoods, the likeliest first, and return them."""
    rows = []
    for scores in rank(model, processor, pictures, texts, FLAGS.candidates):
        order = np.argsort(-scores, kind="stable")
        ranked = [{"candidate": FLAGS.candidates[n], "log_likelihood": float(scores[n])} for n in order]
        print("  ".join(f"{row['candidate']} {row['log_likelihood']:.3f}" for row in ranked))
        rows.append({"answer": ranked[0]["candidate"], "ranking": ranked})
    return rows


def run(args: Sequence[str]) -> None:
    """Answer every instruction about every picture."""
    distributed.start()
    for path in FLAGS.image:  # before the model: a bad one is told at once; none is kept, for many fill the memory
        open_image(path)
    pictures: list[Any] = [FLAGS.image] if FLAGS.frames else FLAGS.image
    model, processor = load()
    for text in args:
        unknown = processor.tokenizer.unknown(text)
        if len(unknown) == len(text.split()):
            raise ValueError(f"instruction {text!r}: the model knows none of its words")
        if unknown and distributed.is_writer():
            print(f"note: the model does not know {', '.join(unknown)}", file=sys.stderr)
    pairs = list(itertools.product(range(len(pictures)), args))
    about, texts = [pictures[n] for n, _ in pairs], [text for _, text in pairs]
    found = (choose if FLAGS.candidates else answer)(model, processor, about, texts)
    if FLAGS.json and distributed.is_writer():
        asked = [{"image": pictures[n], "instruction": text} for n, text in pairs]
        rows = [row | told for row, told in zip(asked, found, strict=True)]
        files.write_json(FLAGS.json, {"answers": rows})
