"""A model's answers over a prepared split: texts, or scores of candidates; with the picture, and with it blanked."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructblip_jax import mesh as meshes
from instructblip_jax.data.evaluation import EvalBatch
from instructblip_jax.data.record import Record
from instructblip_jax.decoding.rank import score
from instructblip_jax.decoding.text import generate_ids
from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.evals.ranking import NO, YES, log_odds
from instructblip_jax.evals.suite import EvalSpec

_rows = jax.jit(lambda tokens, place: tokens[place])


def candidates(record: Record, mode: str, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """What is ranked for a record. Raises ValueError where it has nothing to rank."""
    found = {"rank": record.candidates, "vocabulary": tuple(vocabulary), "binary": (*NO, *YES)}[mode]
    if not found:
        raise ValueError(f"{record.uid}: has no candidates to rank; judge it in another mode than {mode!r}")
    return found


def predictions(
    model: Any, processor: Any, asked: EvalBatch, how: EvalSpec, vocabulary: Sequence[str] = (), *, blind: bool = False
) -> list[Prediction]:
    """One a record. ``blind``: every picture is the processor's mean colour. All hosts of a job call it together."""
    pixels = np.zeros_like(asked.pixels) if blind else asked.pixels
    own = meshes.local_rows(model.mesh, asked.pictures)
    whole: Any = meshes.put_rows(model.mesh, {"pixels": pixels}, own, asked.pictures)
    with jax.set_mesh(model.mesh):
        image = _rows(model.encode_image(whole["pixels"]), jnp.asarray(asked.place))
    if how.mode == "generate":
        penalty = how.length_penalty
        if penalty is None:
            penalty = 0.0 if processor.decoder_only else -1.0
        ids = generate_ids(
            model,
            asked.text,
            image=image,
            num_beams=how.num_beams,
            max_new_tokens=how.max_new_tokens,
            min_new_tokens=how.min_new_tokens,
            length_penalty=penalty,
            repetition_penalty=how.repetition_penalty,
        )
        return [Prediction(text) for text in processor.decode(ids)[: len(asked.records)]]
    lists = [candidates(record, how.mode, vocabulary) for record in asked.records]
    lists += lists[:1] * (len(asked.place) - len(lists))
    scores = score(model, processor, image, asked.text, lists, include_end=how.include_end)
    out = []
    for row, texts in zip(scores, lists[: len(asked.records)], strict=False):
        best = texts[int(np.argmax(row[: len(texts)]))]
        if how.mode == "vocabulary":  # thousands of scores for each of thousands of questions are of no use to anybody
            out.append(Prediction(best))
        elif how.mode == "binary":
            out.append(Prediction(best, (log_odds(row[: len(texts)].tolist(), texts),)))
        else:
            out.append(Prediction(best, tuple(float(x) for x in row[: len(texts)])))
    return out


def answered(
    model: Any,
    processor: Any,
    batches: Iterator[EvalBatch],
    how: EvalSpec,
    vocabulary: Sequence[str] = (),
    *,
    blind: bool,
    blank_image: bool = False,
) -> Iterator[list[tuple[Record, Prediction, Prediction | None]]]:
    """(record, prediction, and with ``blind`` that with the picture blanked) of the records of each batch.

    ``blank_image``: all are blanked, as for a model that was trained so.
    """
    for asked in batches:
        seen = predictions(model, processor, asked, how, vocabulary, blind=blank_image)
        unseen: Sequence[Prediction | None] = [None] * len(seen)
        if blind:
            unseen = predictions(model, processor, asked, how, vocabulary, blind=True)
        yield list(zip(asked.records, seen, unseen, strict=True))
