"""The items that readers yield: records whose media are still files, and rows that are no records."""

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
    """A picture, a video, a recording or a point cloud, not yet read.

    Attributes:
      path: the file, or the tar archive that holds it. A folder of numbered frames is a video.
      offset, size: where its bytes are in the archive; size 0 is the whole file.
      data: the bytes themselves, where a row holds them.
      kind: one of `KINDS`. The frames of a video are taken between ``start`` and ``end`` (seconds; None: its end).
      least: a document leaves out this picture if a side of it has fewer pixels, or if all of it has one colour; 0
        leaves out none.
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
        """True if frames are to be taken from it."""
        return self.kind == VIDEO


@dataclasses.dataclass(frozen=True)
class Draft:
    """``record`` without its media, which are to be read from ``media``; ``where``: "FILE:LINE" or "FILE:KEY".

    Attributes:
      rows: how many rows of the source it stands for: several where captions of a picture are joined, 0 where another
        draft stands for its row already.
      notes: what was joined or left out of the row, each one of few phrases, which are counted and reported.
    """

    where: str
    record: Record
    media: tuple[Media, ...] = ()
    rows: int = 1
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Skip:
    """A row that is no record. ``reason`` is one of few phrases, by which the report counts ("empty answer");
    ``detail`` is particular to the row. ``rows``: see `Draft`."""

    where: str
    reason: str
    detail: str = ""
    rows: int = 1


Stream = Generator[Draft | Skip, None, int]
"""Drafts and skips. It returns the number of rows that its source holds, counted before they are interpreted, so that
the shard writer can refuse a split whose drafts and skips stand for more or fewer."""


T = TypeVar("T")


class Reading(Generic[T]):
    """The items of a stream, iterated once. ``held`` is what the stream returned: None before its end, and for an
    iterator that returns nothing."""

    def __init__(self, items: Iterable[T]):
        self._items = items
        self.held: int | None = None

    def __iter__(self) -> Iterator[T]:
        self.held = yield from self._items  # type: ignore[func-returns-value]  # a generator does


Rows = Callable[[], Iterator[Draft | Skip]]
"""Streams the rows of a split, in the same order every time; returns a `Stream` where it can be checked that no row is
lost."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A data set as its makers publish it.

    Attributes:
      splits: (source, image roots) -> official split name ("val", "test-dev", "zeroshot/test") -> its rows, for the
        splits whose files are there. Raises FileNotFoundError, naming the files that were looked for, if none is.
      expected: split -> records in the real release, so that a partial download is noticed; empty where not known.
      vocabulary: source -> the answers that are ranked, for sets judged by a vocabulary.
    """

    splits: Callable[[Path, Sequence[Path]], Mapping[str, Rows]]
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabulary: Callable[[Path], Sequence[str]] | None = None
