"""The part of a document that a visit reads, which depends only on record, seed and visit."""

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from instructblip_jax.data.record import Record, without
from instructblip_jax.processors.base import BaseProcessor, Row

Parts = Sequence[str | int]
"""Texts, and numbers of media, in reading order."""
CHARACTERS = 16
"""Maximum number of characters per token that are examined if a text is longer than its row."""
JOINED = 64
"""Maximum number of texts per row."""
_END = re.compile(r"[.!?][\"')\]]*\s+|\n+")
"""The end of a sentence."""


@dataclasses.dataclass(frozen=True)
class DocumentsConfig:
    """The part of a document that a visit reads; `recipes.documents` has the papers' settings.

    Attributes:
      tokens: maximum number of tokens, not counting image tokens if the system's processor does not count them; 0 means
        the longest of ``response_lengths``.
      pictures: maximum number of images, the first ones; 0 means all.
      window: read a longer document from a random token, not from its beginning.
      pass_single: fraction of visits to documents with a single image that are skipped.
      pictured: skip a visit to a document with images if the part that is read has none, or if no text follows its
        only one.
      pack: fill a row of text without images with whole sentences, from the document and from those after it.
    """

    tokens: int = 0
    pictures: int = 0
    window: bool = False
    pass_single: float = 0.0
    pictured: bool = False
    pack: bool = False

    def check(self) -> None:
        """Raise ValueError naming a field that is out of range."""
        for name in ("tokens", "pictures"):
            if getattr(self, name) < 0:
                raise ValueError(f"config.data.documents.{name} is {getattr(self, name)}; it is at least 0")
        if not 0 <= self.pass_single < 1:
            raise ValueError(f"config.data.documents.pass_single is {self.pass_single}; it is at least 0, and below 1")


WHOLE = DocumentsConfig()
"""Documents from their beginning, with all images."""


@dataclasses.dataclass(frozen=True)
class Read:
    """Token rows, and the indices of the record's media in them."""

    row: Row
    shown: tuple[int, ...]


def read(
    record: Record,
    rng: np.random.Generator,
    processor: BaseProcessor,
    config: DocumentsConfig,
    longest: int | None = None,
    following: Iterable[Record] = (),
) -> Read | None:
    """The part of a document that is read; None if this visit is skipped.

    ``longest``: maximum number of tokens per row. ``following``: the records after it, for packed rows. Raises
    ValueError for a system that does not read documents.
    """
    limit = min((n for n in (config.tokens, longest) if n), default=None)
    try:
        if config.pack and limit and not record.media:
            return Read(_packed(record, rng, processor, limit, following), ())
        return _part(record.parts, rng, processor, config, limit)
    except NotImplementedError as error:
        raise ValueError(f"{record.uid}: {error}") from error


def _part(
    parts: Parts, rng: np.random.Generator, processor: BaseProcessor, config: DocumentsConfig, limit: int | None
) -> Read | None:
    pictures = [part for part in parts if isinstance(part, int)]
    if len(pictures) == 1 and rng.random() < config.pass_single:
        return None
    if limit and config.window:
        parts = _from_anywhere(parts, rng, processor, limit)
    kept = [part for part in parts if isinstance(part, int)][: config.pictures or None]
    parts = without(parts, {picture: number for number, picture in enumerate(kept)})
    row = processor.document(_front(parts, limit))
    if limit:
        row, count = processor.cut(row, limit)
        kept = kept[:count]
    if config.pictured and pictures and (not kept or (len(kept) == 1 and isinstance(parts[-1], int))):
        return None
    return Read(row, tuple(kept))


def _from_anywhere(parts: Parts, rng: np.random.Generator, processor: BaseProcessor, limit: int) -> Parts:
    """The document from a random token, such that ``limit`` tokens follow; all of it if it has no more. A text begins
    with a whole word."""
    places = [place for number, part in enumerate(parts) for place in _places(part, number, processor)]
    if len(places) <= limit:
        return parts
    number, start = places[int(rng.integers(len(places) - limit + 1))]
    first = parts[number]
    if isinstance(first, str):
        if start and not first[start - 1].isspace():
            start = next((at for at in range(start, len(first)) if first[at].isspace()), len(first))
        first = first[start:].lstrip()
    return [*([first] if first != "" else []), *parts[number + 1 :]]


def _places(part: str | int, number: int, processor: BaseProcessor) -> list[tuple[int, int]]:
    """(``number``, first character) of each token of a part; an image counts as one."""
    if isinstance(part, int):
        return [(number, 0)]
    ends = [end for end in processor.tokenizer.joined([part])[1].tolist() if end]
    return [(number, start) for start in (0, *ends[:-1])]


def _front(parts: Parts, limit: int | None) -> Parts:
    """The parts without texts beyond ``limit`` tokens, so that books are not tokenised completely."""
    if limit is None:
        return parts
    left, found = CHARACTERS * limit, list[str | int]()
    for part in parts:
        if left <= 0:
            break
        found.append(part[:left] if isinstance(part, str) else part)
        left -= len(part) if isinstance(part, str) else 0
    return found


# Rows of texts without images


def _packed(
    record: Record, rng: np.random.Generator, processor: BaseProcessor, limit: int, following: Iterable[Record]
) -> Row:
    """Sentences from a random one on, including those of the following documents, up to ``limit`` tokens. A longer
    sentence is cut if it is the first."""
    rows: list[Row] = []
    alike = (one for one in following if not one.media and one.parts)
    for one in itertools.islice(itertools.chain([record], alike), JOINED):
        text = "\n\n".join(part for part in one.parts if isinstance(part, str))
        ends = [found.end() for found in _END.finditer(text)]
        ends = [*ends, len(text)] if not ends or ends[-1] < len(text) else ends
        begin = 0
        if not rows:
            first = int(rng.integers(len(ends)))
            begin, ends = (ends[first - 1] if first else 0), ends[first:]
        left = limit - sum(sum(processor.lengths(row)) for row in rows)
        within = [end for end in ends if end - begin <= CHARACTERS * left] or ends[:1]

        def too_long(end: int, text: str = text, begin: int = begin, left: int = left) -> bool:
            return sum(processor.lengths(processor.document([text[begin:end].strip()]))) > left

        count = bisect.bisect_left(within, True, key=too_long)
        if count:
            rows.append(processor.document([text[begin : within[count - 1]].strip()]))
        elif not rows:
            text = text[begin : begin + min(within[0] - begin, CHARACTERS * limit)].strip()
            return processor.cut(processor.document([text]), limit)[0]
        if count < len(ends):
            break
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
