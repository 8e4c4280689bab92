"""The static shapes of prompts: the media that a row has room for, and the length of its text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from instructblip_jax.processors.base import BaseProcessor, Medium

SHORT = 4
"""Prompts of up to a quarter of the longest length have separate, shorter programs."""


@dataclasses.dataclass(frozen=True)
class Form:
    """The media that a row has room for, by modality, their ``kinds`` in reading order, and a text of ``length``
    tokens, not counting those of media."""

    room: tuple[tuple[str, int], ...]
    kinds: tuple[str, ...]
    length: int
    longest: int
    """Tokens of the longest text in any form."""

    def holds(self, shown: Mapping[str, int], length: int) -> bool:
        """True if a row with these media, counted by modality, and a text of this length fits."""
        room = dict(self.room)
        return length <= self.length and all(count <= room.get(name, 0) for name, count in shown.items())


def forms(processor: BaseProcessor, length: int, most: Mapping[str, int]) -> list[Form]:
    """The forms of a model's prompts, smallest first: each modality alone and, if a row may contain ``most`` of each
    modality, all of them together; each with a short text, and with a text of ``length`` tokens."""
    alone = {name: media_of(processor, name, blank(name), "blank") for name in processor.modalities}
    kinds = {name: tuple(kind for kind, _ in media) for name, media in alone.items()}
    rooms: list[tuple[tuple[str, int], ...]] = [((name, 1),) for name in kinds]
    if processor.several and (together := tuple((name, most[name]) for name in kinds)) not in rooms:
        rooms.append(together)
    return [
        Form(room, tuple(kind for name, count in room for kind in kinds[name] * count), one, length)
        for room in rooms
        for one in sorted({max(length // SHORT, 1), length})
    ]


def blank(modality: str) -> Any:
    """A blank medium, in the form that public functions accept."""
    picture = Image.new("RGB", (64, 64))
    made = {"video": [picture] * 4, "audio": (np.zeros(16_000, np.float32), 16_000), "pc": _cloud()}
    return made.get(modality, picture)


def _cloud() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2048, 3)).astype(np.float32)


def media_of(processor: BaseProcessor, modality: str, content: Any, name: str) -> Sequence[Medium]:
    """One medium in a processor's form; a video as its frames. Raises ValueError naming what cannot be read."""
    if modality == "image":
        return [("image", content)]
    if processor.several:
        (row,) = processor.rows(None, 1, media={modality: [content]})
    else:
        (row,) = processor.rows([content], 1)
    media = processor.given(row, name)
    if not media or media[0][0] == "image":
        raise ValueError(f"{name}: not a {modality} file of a supported format; see docs/media.md")
    return media


def counted(modalities: Sequence[str]) -> Mapping[str, int]:
    """The number of media of each modality."""
    return {name: modalities.count(name) for name in dict.fromkeys(modalities)}
