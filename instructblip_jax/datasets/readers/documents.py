"""Documents: texts with interleaved images, in reading order, for the readers of such sets."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from instructblip_jax.data.record import DOCUMENT, Record
from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, clean, need, typed
from instructblip_jax.datasets.readers.source_rows import Made

LEAST = 64
"""Minimum side, in pixels, of an image from the web (arXiv 2204.14198, 2302.14045)."""
PARAGRAPH = "\n\n"
"""The separator of paragraphs, and of adjacent texts in OBELICS."""
LEFT_OUT = "picture left out: "
"""Prefix of the note on an image that was left out of its document."""


def made(
    uid: str,
    dataset: str,
    split: str,
    pieces: Iterable[str | Media],
    joint: str,
    *,
    notes: Iterable[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> Made:
    """The record of a document. ``pieces``: cleaned texts and images in reading order; empty texts are left out, and
    ``joint`` joins adjacent ones.

    Raises BadRow for a document without any text, and for one that loses all its images (``notes`` has the reasons).
    """
    parts: list[str | int] = []
    media: list[Media] = []
    for piece in pieces:
        if isinstance(piece, Media):
            parts.append(len(media))
            media.append(piece)
        elif piece and parts and isinstance(parts[-1], str):
            parts[-1] += joint + piece
        elif piece:
            parts.append(piece)
    if not any(isinstance(part, str) for part in parts):
        raise BadRow("document without text")
    notes = tuple(notes)
    lost = [note.removeprefix(LEFT_OUT) for note in notes if note.startswith(LEFT_OUT)]
    if lost and not media:
        raise BadRow("no picture left", ", ".join(dict.fromkeys(lost)))
    record = Record(uid, dataset, split, DOCUMENT, (), {}, (), meta=meta or {}, parts=tuple(parts))
    return record, tuple(media), notes


def pairs(row: SourceRow) -> Iterator[tuple[Any, str | None]]:
    """(image, None) or (None, cleaned text) for each position of the parallel lists ``images`` and ``texts``, one of
    which is None at each position. Raises BadRow."""
    pictures, texts = (typed(need(row, name), list, name) for name in ("images", "texts"))
    if len(pictures) != len(texts):
        raise BadRow("images and texts differ in length", f"{len(pictures)} and {len(texts)}")
    for picture, text in zip(pictures, texts, strict=True):
        if (picture is None) == (text is None):
            raise BadRow("not one of picture and text", f"{str(picture)[:40]!r} and {str(text)[:40]!r}")
        yield picture, None if text is None else clean(typed(text, str, "texts"))


def decoded(text: str) -> bytes:
    """The bytes of an image in base64. Raises BadRow."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow("broken base64", str(error)) from None
