"""The images of a document: unusable ones are removed, and the document is kept."""

import dataclasses

from PIL import Image

from instructblip_jax.data.record import Medium, Record, without
from instructblip_jax.datasets.draft import Draft, Media
from instructblip_jax.datasets.media.load import read
from instructblip_jax.processors.content import UnusableMediaError

MISSING = "missing "
"""Prefix of the reasons for media that do not exist."""


def with_pictures(draft: Draft) -> tuple[Record, tuple[str, ...]]:
    """The record of a document with its usable images, and a note on each of the others.

    Raises UnusableMediaError for a document that loses all its images.
    """
    numbers: dict[int, int] = {}
    media: list[Medium] = []
    reasons: list[str] = []
    for number, one in enumerate(draft.media):
        try:
            media.append(Medium(one.kind, _taken(one)))
            numbers[number] = len(media) - 1
        except UnusableMediaError as error:
            reasons.append(error.reason)
    if reasons and not media:
        gone = all(reason.startswith(MISSING) for reason in reasons)
        raise UnusableMediaError("missing pictures" if gone else "no picture left", ", ".join(dict.fromkeys(reasons)))
    parts = without(draft.record.parts, numbers)
    notes = tuple(f"picture left out: {reason}" for reason in reasons)
    return dataclasses.replace(draft.record, media=tuple(media), parts=parts), notes


def _taken(media: Media) -> bytes:
    """The bytes of an image. Raises UnusableMediaError, also for one that `Media.least` excludes."""
    data, image = read(media)
    if min(image.size) < media.least:
        raise UnusableMediaError(f"a side below {media.least} pixels", f"{image.width} x {image.height}")
    if media.least and _has_one_colour(image):
        raise UnusableMediaError("a single colour")
    return data


def _has_one_colour(image: Image.Image) -> bool:
    return all(isinstance(ends, tuple) and ends[0] == ends[1] for ends in image.getextrema())
