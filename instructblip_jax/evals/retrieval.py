"""Image-text retrieval: recall in both directions, by similarity only, and with the best candidates re-ranked by
matching.

ALBEF (arXiv 2107.07651), BLIP (arXiv 2201.12086) and BLIP-2 (arXiv 2301.12597) are evaluated this way. Every image and
every text is embedded once. Matching encodes the images a second time, one batch at a time, because the encoded images
of a gallery take gigabytes (5,000 of 577 tokens of 768 numbers: 9 GB in float32).
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from instructblip_jax import comparing
from instructblip_jax import mesh as meshes
from instructblip_jax.comparing import cosines, text_batch, text_length, text_rows
from instructblip_jax.data.loader import media_of
from instructblip_jax.data.record import Record
from instructblip_jax.distributed import is_writer
from instructblip_jax.evals.recall import order, ranks
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor


class Gallery:
    """The images of a set, and their texts in the order of the records: text n belongs to image ``owner[n]``.

    Raises ValueError naming a record without a text, or with media other than a single image.
    """

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self.texts: list[str] = []
        owner: list[int] = []
        for number in range(len(records)):
            record = records[number]
            texts = record.references or record.answers
            if not texts or len(record.media) != 1:
                raise ValueError(f"{record.uid}: retrieval needs one picture and its texts; this record has "
                                 f"{len(record.media)} pictures and {len(texts)} texts")  # fmt: skip
            self.texts += texts
            owner += [number] * len(texts)
        self.owner = np.array(owner)


def retrieve(
    model: Model, processor: BaseProcessor, records: Sequence[Record], *, batch_size: int, candidates: int
) -> list[str]:
    """One JSON line per image; see `recall`.

    ``candidates``: number of best candidates by similarity that are re-ranked by matching, in both directions; 0 for
    none. The work is spread over the devices of all hosts; every host gets all lines. Ties keep the order of the set.
    """
    comparing.check(model, processor)
    gallery = Gallery(records)
    rows = text_rows(processor, gallery.texts, clean=True)
    length = text_length(processor, rows)
    texts = _in_parts(
        len(rows),
        batch_size,
        lambda part: model.embed_texts(text_batch(processor, [rows[n] for n in part], length)),
        "texts",
    )
    images = _in_parts(
        len(records), batch_size, lambda part: model.embed_media(_encoded(model, processor, records, part)), "pictures"
    )
    similar = cosines(images, texts)
    ways = [similar]
    if candidates:
        ways.append(_ranked_again(model, processor, gallery, similar, rows, length, batch_size, candidates))
    return [json.dumps(line) for line in _lines(gallery, ways)]


def _in_parts(count: int, size: int, compute: Callable[[np.ndarray], np.ndarray], what: str) -> np.ndarray:
    """``compute`` over the numbers 0 to count - 1, ``size`` at a time; the last part is padded with number 0."""
    found = []
    quiet = None if is_writer() else True  # None: shown only on a terminal
    for start in tqdm(range(0, count, size), desc=what, unit="batch", leave=False, disable=quiet):
        part = np.arange(start, start + size)
        found.append(compute(np.where(part < count, part, 0)))
    return np.concatenate(found)[:count]


def _encoded(model: Model, processor: BaseProcessor, records: Sequence[Record], part: np.ndarray) -> Any:
    """The encoded images of some records; each host decodes its own."""
    own = meshes.local_rows(model.mesh, len(part))
    media = processor.stack([media_of(records[int(n)], processor) for n in part[own]])
    return model.encode(media, own=own, rows=len(part))


def _ranked_again(
    model: Model,
    processor: BaseProcessor,
    gallery: Gallery,
    similar: np.ndarray,
    rows: Sequence[dict[str, np.ndarray]],
    length: int,
    size: int,
    candidates: int,
) -> np.ndarray:
    """Scores float32 [2, B, N] of images over texts and of texts over images: matching logits, plus the similarity if
    the system's paper adds it; the lowest number where a pair is not a candidate of its row."""
    asked = [_best(similar, candidates), _best(similar.T, candidates).T]
    logits = np.zeros(similar.shape, np.float32)
    chosen = asked[0] | asked[1]
    total = sum(-(-int(chosen[n : n + size].sum()) // size) for n in range(0, len(chosen), size))
    with tqdm(total=total, desc="matching", unit="batch", leave=False, disable=None if is_writer() else True) as bar:
        for start in range(0, len(chosen), size):
            block = np.arange(start, start + size)
            media = _encoded(model, processor, gallery.records, np.where(block < len(chosen), block, 0))
            pairs = np.argwhere(chosen[start : start + size])
            for first in range(0, len(pairs), size):
                part = pairs[first : first + size]
                filled = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
                texts = text_batch(processor, [rows[n] for n in filled[:, 1]], length)
                found = model.match(model.take(media, filled[:, 0]), texts)[: len(part), 1]
                logits[start + part[:, 0], part[:, 1]] = found
                bar.update()
    scores = logits + similar if model.config.match_adds_similarity else logits
    lowest = np.finfo(np.float32).min
    return np.stack([np.where(own, scores, lowest) for own in asked])


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """bool [B, N]: the ``count`` highest of each row; ties keep their order."""
    found = np.zeros(scores.shape, bool)
    for row, own in zip(found, scores, strict=True):
        row[order(own)[:count]] = True
    return found


def _lines(gallery: Gallery, ways: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """``ways``: scores [B, N], or [2, B, N] if those of texts over images differ."""
    lines: list[dict[str, Any]] = [
        {"uid": gallery.records[n].uid, "image_to_text": [], "text_to_image": []} for n in range(len(gallery.records))
    ]
    own = [np.flatnonzero(gallery.owner == number) for number in range(len(lines))]
    for scores in ways:
        to_texts, to_images = scores if scores.ndim == 3 else (scores, scores)
        for number, line in enumerate(lines):
            line["image_to_text"].append(int(ranks(to_texts[number])[own[number]].min()))
            places = [int(ranks(to_images[:, n])[number]) for n in own[number]]
            line["text_to_image"] = [[*before, place] for before, place in
                                     zip(line["text_to_image"] or [[]] * len(places), places, strict=True)]  # fmt: skip
    return lines
