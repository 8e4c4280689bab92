"""Runs `instructblip answer`."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from instructblip_jax import comparing, distributed, drawing, files, looking
from instructblip_jax.command_lines.answer import generation, media
from instructblip_jax.decoding.rank import rank
from instructblip_jax.decoding.text import generate, stream
from instructblip_jax.mesh import make_mesh
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.processors.image import open_image
from instructblip_jax.run import trained

FLAGS = flags.FLAGS


def load() -> tuple[Model, BaseProcessor]:
    """The model that the flags name, with the trained parameters of --workdir if it is given, and its processor."""
    mesh = make_mesh(data=1, fsdp=-1) if jax.process_count() > 1 else None
    return trained.load(FLAGS.model, FLAGS.workdir, mesh=mesh, dtype=FLAGS.dtype, int8=FLAGS.int8)


def shared(texts: list[str]) -> dict[str, list]:
    """The media of --media, for every row."""
    return {modality: [files] * len(texts) for modality, files in media().items()}


def answer(model: Model, processor: BaseProcessor, pictures: list | None, texts: list[str]) -> list[dict[str, Any]]:
    """Print one answer per line, and return them."""
    options = generation() | {"seed": FLAGS.seed, "media": shared(texts)}
    if len(texts) == 1 and sys.stdout.isatty() and jax.process_count() == 1:  # all processes must do the same
        pieces = []
        for piece in stream(model, processor, pictures[0] if pictures else None, texts[0], **options):
            print(piece, end="", flush=True)
            pieces.append(piece)
        print()
        return [{"answer": "".join(pieces)}]
    answers = generate(model, processor, pictures, texts, **options)
    print("\n".join(answers))
    return [{"answer": text} for text in answers]


def choose(model: Model, processor: BaseProcessor, pictures: list | None, texts: list[str]) -> list[dict[str, Any]]:
    """Print each row's candidates with their log-likelihoods, most likely first, and return them."""
    rows = []
    for scores in rank(model, processor, pictures, texts, FLAGS.candidates, media=shared(texts)):
        order = np.argsort(-scores, kind="stable")
        ranked = [{"candidate": FLAGS.candidates[n], "log_likelihood": float(scores[n])} for n in order]
        print("  ".join(f"{row['candidate']} {row['log_likelihood']:.3f}" for row in ranked))
        rows.append({"answer": ranked[0]["candidate"], "ranking": ranked})
    return rows


def compare(model: Model, processor: BaseProcessor, pictures: list | None, texts: list[str]) -> list[dict[str, Any]]:
    """Print the similarity and the match probability of each image and text; return both."""
    cosines = comparing.similarity(model, processor, pictures, texts).diagonal()
    rows = [
        {"similarity": float(cosine), "match": float(probability)}
        for cosine, probability in zip(cosines, comparing.match(model, processor, pictures, texts), strict=True)
    ]
    for text, row in zip(texts, rows, strict=True):
        print(f"similarity {row['similarity']:.3f}  match {100 * row['match']:.1f} %  {text}")
    return rows


def draw(model: Model, processor: BaseProcessor, picture: Any, texts: Sequence[str]) -> None:
    """Draw the queries' attention over the image to the file of --look, one row per instruction."""
    views = {text: looking.views(model, processor, picture, text) for text in texts}
    if distributed.is_writer():
        rows = [looking.overlay(processor, picture, found, title=text) for text, found in views.items()]
        drawing.below(rows).save(FLAGS.look)
        print(f"{FLAGS.look}: {', '.join(next(iter(views.values())))}", file=sys.stderr)


def run(args: Sequence[str]) -> None:
    """Answer every instruction about every image; a model that only compares scores the pairs instead."""
    distributed.start()
    for path in FLAGS.image:  # before the model, so that a bad file is reported at once; not kept, to save memory
        open_image(path)
    together = FLAGS.frames or bool(FLAGS.media)
    pictures: list[Any] = [FLAGS.image] if together else FLAGS.image
    model, processor = load()
    for text in args:
        unknown = processor.tokenizer.unknown(text)
        if text.strip() and len(unknown) == len(text.split()):
            raise ValueError(f"instruction {text!r}: the model knows none of its words")
        if unknown and distributed.is_writer():
            print(f"note: the model does not know {', '.join(unknown)}", file=sys.stderr)
    pairs = list(itertools.product(range(len(pictures)), args))
    about, texts = [pictures[n] for n, _ in pairs], [text for _, text in pairs]
    writes = model.has("prefill")
    if not writes and FLAGS.candidates:
        raise ValueError(
            f"{model.directory} generates no text: --candidates has no effect; give the candidates as instructions"
        )
    if not writes and FLAGS.media:
        raise ValueError(f"{model.directory} only compares pictures with texts: --media has no effect")
    if FLAGS.look:
        draw(model, processor, pictures[0], args)
    found = (choose if FLAGS.candidates else answer if writes else compare)(
        model, processor, about if FLAGS.image else None, texts
    )
    if FLAGS.json and distributed.is_writer():
        more = {"media": media()} if FLAGS.media else {}
        asked = [{"image": pictures[n], **more, "instruction": text} for n, text in pairs]
        rows = [row | result for row, result in zip(asked, found, strict=True)]
        files.write_json(FLAGS.json, {"answers": rows})
