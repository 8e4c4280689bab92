"""Web image-text pairs from users' own files, in the order of the sources."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import IMAGE
from instructblip_jax.datasets.draft import Draft, Reading, Rows, Skip, Stream
from instructblip_jax.datasets.readers import custom


def pairs(sources: Sequence[Path], images: Sequence[Path], name: str) -> Rows:
    """Streams the pairs of ``sources``, of all their splits, as training records of the set ``name``.

    ``images``: folders in which images are searched for. Raises FileNotFoundError or ValueError naming the file.
    """
    parts: list[Rows] = []
    for source in sources:
        release = custom.release(source, images, name=name, format=None, encoding=None, validation=0.0)
        parts += release.splits(source, images).values()
    return partial(_stream, parts, name)


def _stream(parts: Sequence[Rows], name: str) -> Stream:
    held = 0
    for rows in parts:
        found = Reading(rows())
        for row in found:
            yield row if isinstance(row, Skip) else _pair(row, name)
        held += found.held or 0
    return held


def _pair(draft: Draft, name: str) -> Draft | Skip:
    record = draft.record
    pictures = [media.kind for media in draft.media]
    if pictures != [IMAGE] or record.task != "caption" or not record.answers:
        return Skip(draft.where, "not one picture with a text", rows=draft.rows)
    *_, own = record.uid.split("/", 2)
    record = dataclasses.replace(record, uid=f"{name}/train/{own}", split="train", weights=(), references=())
    return dataclasses.replace(draft, record=record)
