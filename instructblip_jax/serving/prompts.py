"""Turns and media of a request -> the engine's input: NumPy arrays, computed in a thread of the pool."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from instructblip_jax.processors.base import BaseProcessor, Row
from instructblip_jax.serving.errors import wrong
from instructblip_jax.serving.forms import Form, counted, media_of

Turns = Sequence[tuple[str, str | None]]
"""(question, answer) pairs; the last answer is None, to be generated."""


@dataclasses.dataclass(frozen=True)
class File:
    """A medium in a request: its modality, its bytes, and the request's field that contains it."""

    modality: str
    content: bytes
    param: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """A decoded medium: its kinds, its arrays, and a digest that identifies it."""

    modality: str
    kinds: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    digest: bytes


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A processed prompt: its media, the token rows of its text, the form that it fits into, and its token count."""

    media: tuple[Shown, ...]
    row: Row
    form: Form
    tokens: int


def read_medium(processor: BaseProcessor, file: File) -> Shown:
    """Decode one medium. Raises `Refusal` naming the field."""
    try:
        media = media_of(processor, file.modality, file.content, file.param)
        arrays = processor.media(media, file.param)
    except ValueError as error:
        raise wrong(str(error), file.param, "unusable_media") from error
    digest = hashlib.sha256(file.modality.encode() + file.content).digest()
    return Shown(file.modality, tuple(kind for kind, _ in media), arrays, digest)


def read_prompt(processor: BaseProcessor, forms: Sequence[Form], turns: Turns, files: Sequence[File]) -> Prompt:
    """Decode the media and tokenize the text. Raises `Refusal` for a prompt that this model cannot process, or that is
    too long."""
    media = tuple(read_medium(processor, file) for file in files)
    kinds = tuple(kind for one in media for kind in one.kinds)
    try:
        if processor.converses:
            row = processor.converse(turns, len(kinds))
        else:
            ((text, _),) = turns
            (text,) = processor.checked([text], "instructions", 1)
            row = processor.encode(text, pictures=processor.shown(kinds))
    except ValueError as error:
        raise wrong(str(error), "messages") from error
    length = processor.lengths(row)[0]
    shown = counted([one.modality for one in media])
    form = next((form for form in forms if form.holds(shown, length)), None)
    if form is None:
        raise wrong(
            f"the prompt has {length} tokens of text; this server accepts {forms[-1].longest} (--max_prompt)",
            "messages",
            "context_length_exceeded",
        )
    return Prompt(media, row, form, max(len(x) for x in row.values()))
