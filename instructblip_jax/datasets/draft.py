"""The items that readers yield: records whose media are still files, and skipped rows."""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from instructblip_jax.data.record import AUDIO, IMAGE, POINTS, Record

VIDEO = "video"
KINDS = (IMAGE, VIDEO, AUDIO, POINTS)
"""The kinds of a `Media`. A video becomes the frames of a record."""


@dataclasses.dataclass(frozen=True)
class Media:
    """An image, a video, an audio clip or a point cloud, not yet read.

    Attributes:
      path: the file, or the tar archive that contains it. A folder of numbered frames is a video.
      offset, size: position of its bytes in the archive; size 0 means the whole file.
      data: the bytes themselves, if a row contains them.
      kind: one of `KINDS`. The frames of a video are taken between ``start`` and ``end`` (seconds; None: its end).
      least: a document leaves out this image if a side has fewer pixels, or if it has a single colour; 0 leaves out
      none.
    """

    path: Path | None = None
    offset: int = 0
    size: int = 0
    data: bytes | None = None
    kind: str = IMAGE
    start: float = 0.0
    end: float | None = None
    least: int = 0

    @property
    def video(self) -> bool:
        """True if frames are sampled from it."""
        return self.kind == VIDEO


@dataclasses.dataclass(frozen=True)
class Draft:
    """``record`` without its media, which are to be read from ``media``; ``where``: "FILE:LINE" or "FILE:KEY".

    Attributes:
      rows: number of rows of the source that it represents: several if captions of an image are joined, 0 if another
        draft already represents its row.
      notes: parts that were joined or left out, each one of a few phrases, which are counted and reported.
    """

    where: str
    record: Record
    media: tuple[Media, ...] = ()
    rows: int = 1
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Skip:
    """A skipped row. ``reason`` is one of a few phrases, by which the report counts ("empty answer"); ``detail`` is
    specific to the row. ``rows``: see `Draft`."""

    where: str
    reason: str
    detail: str = ""
    rows: int = 1


Stream = Generator[Draft | Skip, None, int]
"""Drafts and skips. It returns the number of rows in its source, counted before they are interpreted, so that the shard
writer can refuse a split whose drafts and skips represent more or fewer."""


T = TypeVar("T")


class Reading(Generic[T]):
    """The items of a stream, iterated once. ``held`` is the stream's return value: None before its end, and for an
    iterator that returns nothing."""

    def __init__(self, items: Iterable[T]):
        self._items = items
        self.held: int | None = None

    def __iter__(self) -> Iterator[T]:
        self.held = yield from self._items  # type: ignore[func-returns-value]  # a generator does


Rows = Callable[[], Iterator[Draft | Skip]]
"""Streams the rows of a split, in the same order every time; returns a `Stream` if it can be checked that no row is
lost."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A dataset as published.

    Attributes:
      splits: (source, image roots) -> official split name ("val", "test-dev", "zeroshot/test") -> its rows, for the
        splits whose files exist. Raises FileNotFoundError, naming the expected files, if none exists.
      expected: split -> number of records in the real release, to detect a partial download; empty if unknown.
      vocabulary: source -> the answers to be ranked, for sets evaluated with a vocabulary.
    """

    splits: Callable[[Path, Sequence[Path]], Mapping[str, Rows]]
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabulary: Callable[[Path], Sequence[str]] | None = None
