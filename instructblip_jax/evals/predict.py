"""A model's answers over a prepared split, with the media and with blanked media: texts, or scores of candidates."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from instructblip_jax.data.evaluation import EvalBatch
from instructblip_jax.data.record import Record
from instructblip_jax.decoding.rank import score
from instructblip_jax.decoding.text import generate_ids
from instructblip_jax.evals.pairs import Prediction
from instructblip_jax.evals.ranking import NO, YES, log_odds
from instructblip_jax.evals.suite import EvalSpec
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.systems.protocol import Media


def candidates(record: Record, mode: str, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """The texts that are ranked for a record. Raises ValueError if there are none."""
    found = {"rank": record.candidates, "vocabulary": tuple(vocabulary), "binary": (*NO, *YES)}[mode]
    if not found:
        raise ValueError(f"{record.uid}: has no candidates to rank; evaluate it in another mode than {mode!r}")
    return found


def predictions(
    model: Model,
    processor: BaseProcessor,
    batch: EvalBatch,
    spec: EvalSpec,
    vocabulary: Sequence[str] = (),
    *,
    blind: bool = False,
) -> list[Prediction]:
    """One prediction for each record. ``blind``: all media are blanked. All hosts of a job call it together."""
    shown = processor.blank(batch.media) if blind else batch.media
    media = model.encode(shown, place=batch.place, own=batch.own, rows=batch.rows)
    if spec.mode == "generate":
        return written(model, processor, media, batch.text, batch.records, spec)
    if spec.mode == "classify" and model.has("classify"):
        return classified(model, model.classify(media, batch.text), batch.records)
    lists = candidate_lists(batch.records, spec, vocabulary)
    return chosen(scored(model, processor, media, batch.text, lists, spec), lists, spec)


def written(
    model: Model,
    processor: BaseProcessor,
    media: Media,
    text: Mapping[str, np.ndarray],
    records: Sequence[Record],
    spec: EvalSpec,
) -> list[Prediction]:
    """Generated texts for the first rows of a batch, one for each record."""
    penalty = spec.length_penalty
    if penalty is None:
        # As published: -1 for encoder-decoders, whose answer is a separate sequence, 0 where it continues the prompt.
        penalty = -1.0 if model.config.prompt_is_counted else 0.0
    ids = generate_ids(
        model,
        text,
        media=media,
        num_beams=spec.num_beams,
        max_new_tokens=spec.max_new_tokens,
        min_new_tokens=spec.min_new_tokens,
        length_penalty=penalty,
        repetition_penalty=spec.repetition_penalty,
    )
    return [Prediction(answer) for answer in processor.decode(ids)[: len(records)]]


def candidate_lists(records: Sequence[Record], spec: EvalSpec, vocabulary: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts that are ranked for each record."""
    mode = "rank" if spec.mode == "classify" else spec.mode  # a system that generates text ranks the class names
    return [candidates(record, mode, vocabulary) for record in records]


def scored(
    model: Model,
    processor: BaseProcessor,
    media: Media,
    text: Mapping[str, np.ndarray],
    lists: Sequence[tuple[str, ...]],
    spec: EvalSpec,
) -> np.ndarray:
    """Log-likelihoods of the candidates of the first rows of a batch, float32 [rows, N], -inf where one has fewer."""
    rows = len(next(iter(text.values())))
    worded = [tuple(map(spec.candidate.format, texts)) for texts in lists]
    filled = [*worded, *[worded[0]] * (rows - len(lists))]
    return score(model, processor, media, text, filled, include_end=spec.include_end)[: len(lists)]


def chosen(scores: np.ndarray, lists: Sequence[tuple[str, ...]], spec: EvalSpec) -> list[Prediction]:
    """The best candidate of each row, with the scores that metrics read."""
    out = []
    for row, texts in zip(scores, lists, strict=True):
        best = texts[int(np.argmax(row[: len(texts)]))]
        if spec.mode == "vocabulary":  # thousands of scores per question are of no use
            out.append(Prediction(best))
        elif spec.mode == "binary":
            out.append(Prediction(best, (log_odds(row[: len(texts)].tolist(), texts),)))
        else:
            out.append(Prediction(best, tuple(float(x) for x in row[: len(texts)])))
    return out


def classified(model: Model, logits: np.ndarray, records: Sequence[Record]) -> list[Prediction]:
    """Logits float32 [B, C] of the system's classes -> one prediction for each record: scores of its candidates.

    Raises ValueError naming a record whose candidates are not classes of the system.
    """
    classes = [name.lower() for name in model.config.classes]
    found = []
    for record, row in zip(records, logits, strict=False):
        names = [name.lower() for name in record.candidates]
        if set(names) != set(classes):
            raise ValueError(
                f"{record.uid}: its candidates are {', '.join(record.candidates) or 'none'}, and this model's classes "
                f"are {', '.join(model.config.classes)}"
            )
        scores = tuple(float(row[classes.index(name)]) for name in names)
        found.append(Prediction(record.candidates[int(np.argmax(scores))], scores))
    return found


def answered(
    model: Model,
    processor: BaseProcessor,
    batches: Iterator[EvalBatch],
    spec: EvalSpec,
    vocabulary: Sequence[str] = (),
    *,
    blind: bool,
    blank_image: bool = False,
) -> Iterator[list[tuple[Record, Prediction, Prediction | None]]]:
    """(record, prediction, and with ``blind`` also the prediction with blanked media) for the records of each batch.

    ``blank_image``: all media are blanked, for a model that was trained this way.
    """
    for batch in batches:
        seen = predictions(model, processor, batch, spec, vocabulary, blind=blank_image)
        unseen: Sequence[Prediction | None] = [None] * len(seen)
        if blind:
            unseen = predictions(model, processor, batch, spec, vocabulary, blind=True)
        yield list(zip(batch.records, seen, unseen, strict=True))
