"""A bank of images, each encoded once however many prompts show it."""

import dataclasses
from collections.abc import Iterable

import jax
import numpy as np

from instructblip_jax import mesh as meshes
from instructblip_jax.data.loader import media_of
from instructblip_jax.data.record import Record, key_of
from instructblip_jax.model import Model
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.systems.bank import pooled
from instructblip_jax.systems.protocol import Media

_pooled = jax.jit(pooled)


class Bank:
    """The encoded images of records, without duplicates. All hosts of a job build it together; each encodes its share.
    A video counts as an image if the system reads it as one.

    ``places``: (record number, image number) -> the image's index in the bank. ``encoded`` counts the images that went
    through the tower.
    """

    def __init__(self, model: Model, processor: BaseProcessor, rows: int):
        self.model, self.processor, self.rows = model, processor, rows
        self.places: dict[tuple[int, int], int] = {}
        self.encoded = 0
        self._known: dict[bytes, int] = {}
        self._waiting: list[Record] = []
        self._parts: list[Media] = []

    def __len__(self) -> int:
        return len(self._known)

    def fill(self, records: Iterable[tuple[int, Record]]) -> "Bank":
        """Add the images of numbered records. Raises ValueError naming one that cannot be read."""
        for number, record in records:
            together = self.processor.shown(tuple(medium.kind for medium in record.media)) == 1
            for place, media in enumerate([record.media] if together else [(medium,) for medium in record.media]):
                key = key_of(b"".join(key_of(medium.data) for medium in media))
                if key not in self._known:
                    self._known[key] = len(self._known)
                    self._waiting.append(dataclasses.replace(record, media=media))
                self.places[number, place] = self._known[key]
                if len(self._waiting) == self.rows:
                    self._encode(self.rows)
        rows = self.rows
        while rows % 2 == 0 and rows // 2 >= len(self._waiting):
            rows //= 2
        if self._waiting:
            self._encode(rows)
        return self

    @property
    def media(self) -> Media:
        """{name: [M, 1, Q, D]}, where M is at least the number of images. There must be an image."""
        if len(self._parts) > 1:
            self._parts = [self.model.join(self._parts)]
        return self._parts[0]

    @property
    def features(self) -> np.ndarray:
        """Unit vectors of all images, float32 [M, D], on every host; see `systems.bank.pooled`."""
        with jax.set_mesh(self.model.mesh):
            return meshes.fetch(_pooled(self.media))

    @property
    def size(self) -> int:
        """M of `media`: the images, and the padding of the last batch."""
        return next(iter(self.media.values())).shape[0] if self._parts else 0

    def blank(self) -> Media:
        """The media of one blank image, [1, 1, Q, D]."""
        arrays = media_of(self._shown, self.processor)
        return self.model.encode(self.processor.stack([self.processor.blank(arrays)]))

    def _encode(self, rows: int) -> None:
        shown = self._waiting + [self._waiting[0]] * (rows - len(self._waiting))
        self._shown = shown[0]
        own = meshes.local_rows(self.model.mesh, rows)
        media = self.processor.stack([media_of(shown[n], self.processor) for n in own.tolist()])
        self._parts.append(self.model.encode(media, own=own, rows=rows))
        self.encoded += rows
        self._waiting = []
