"""The base of processors whose rows hold several pictures, each at its place in the text."""

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from instructblip_jax.pixels import BLANK, SCALE, all_numbers
from instructblip_jax.processors.base import IGNORE, MARK, Given, Medium, Row
from instructblip_jax.processors.image_text import ImageTextProcessor

__all__ = ["MARK", "InterleavedProcessor"]


class InterleavedProcessor(ImageTextProcessor):
    """See the module. Texts hold `MARK` for each picture of their row; in a text without any, the pictures stand where
    the system's own form puts them. A batch's pictures are [B, N, H, W, 3], zeros where a row has fewer than N."""

    FRAMES = 0  # a row's list of pictures is no video
    several = True
    pictures: tuple[int, ...] = ()
    """The numbers N that batches have, ascending; () is any number that occurs."""

    # Texts

    @abstractmethod
    def picture_tokens(self, ids: np.ndarray) -> np.ndarray:
        """Tokens int [n] -> bool [n], true for those that a picture takes up (``config.tokens_per_picture`` each)."""

    def pictures_in(self, ids: np.ndarray) -> int:
        """The number of pictures that have a place in these tokens."""
        return int(self.picture_tokens(ids).sum()) // self.config.tokens_per_picture

    def marked(self, text: str, pictures: int) -> str:
        """``text`` with a mark for each of its row's pictures: in front of it, if it has none.

        Raises ValueError for a text with marks for more or fewer pictures.
        """
        count = text.count(MARK)
        if count not in (0, pictures):
            raise ValueError(f"holds {MARK} {count} times, and its row has {pictures} pictures")
        return text if count else MARK * pictures + text

    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens before the first answer, those of pictures not counted, and from there on."""
        words = ~self.picture_tokens(row["input_ids"])
        if "labels" not in row:
            return int(words.sum()), 0
        answered = np.flatnonzero(row["labels"] != IGNORE)
        first = answered[0] if len(answered) else len(words)
        return int(words[:first].sum()), int(words[first:].sum())

    def cut(self, row: Row, length: int) -> tuple[Row, int]:
        """See `BaseProcessor`."""
        kept = np.cumsum(~self.picture_tokens(row["input_ids"])) <= length
        cut = {key: x[: int(kept.sum())] for key, x in row.items()}
        return cut, self.pictures_in(cut["input_ids"])

    def batch(
        self,
        rows: Sequence[Row],
        prompt: int,
        response: int = 0,
        kinds: tuple[str, ...] = ("image",),
        *,
        training: bool = True,
    ) -> dict[str, np.ndarray]:
        """See `BaseProcessor`: ``prompt`` and ``response`` do not count the tokens of pictures."""
        most = max(len(kinds), *(self.pictures_in(row["input_ids"]) for row in rows))
        kinds = self.static_kinds((*kinds, *("image",) * (most - len(kinds))))
        shapes = self.config.batch(len(rows), prompt, response, kinds, training=training)
        return self.pad(rows, {key: shapes[key].shape[1] for key in rows[0]})

    # Media

    def given(self, row: Given, name: str) -> list[Medium]:
        """The pictures of one row: one, several, or none."""
        if isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 4):
            return [("image", picture) for picture in row]
        return [("image", row)]

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """See `ImageTextProcessor`: pixel_values are [N, H, W, 3] however many pictures there are."""
        arrays = super().media(media, name, rng)
        if not media and 0 in self.pictures:  # its batch may have room for none
            return {key: x[None][:0] for key, x in arrays.items()}
        return {key: x if x.ndim == (3 if key.endswith(SCALE) else 4) else x[None] for key, x in arrays.items()}

    def static_kinds(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """See `BaseProcessor`: so many pictures that there is one of the numbers `pictures`.

        Raises ValueError where none is large enough.
        """
        if not self.pictures or {*kinds} - {"image"}:
            return super().static_kinds(kinds)
        if len(kinds) > self.pictures[-1]:
            raise ValueError(
                f"config.data.pictures goes up to {self.pictures[-1]}, and a record shows {len(kinds)} pictures"
            )
        return ("image",) * next(count for count in self.pictures if count >= len(kinds))

    def holding(self, pictures: tuple[int, ...]) -> Self:
        """See `BaseProcessor`."""
        other = copy.copy(self)
        other.pictures = tuple(sorted(pictures))
        return other

    def stack(self, rows: Sequence[Mapping[str, np.ndarray]], kinds: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """The media arrays of rows -> those of a batch; rows with fewer pictures are filled up with zeros."""
        most = max(len(kinds), *(len(next(iter(row.values()))) for row in rows))
        filled = []
        for row in rows:
            more = {key: np.zeros((most - len(x), *x.shape[1:]), x.dtype) for key, x in row.items()}
            more |= {key: np.broadcast_to(BLANK, x.shape) for key, x in more.items() if key.endswith(SCALE)}
            filled.append({key: np.concatenate([x, more[key]]) for key, x in row.items()})
        return super().stack(filled)

    def media_of(self, rows: Sequence[Given]) -> dict[str, np.ndarray]:
        """See `BaseProcessor`; rows may have different numbers of pictures."""
        found = [self.media(self.given(row, f"image {n}"), f"image {n}") for n, row in enumerate(rows)]
        return all_numbers(self.stack(found))
