"""What readers yield: records whose pictures are still files, and rows that are no records."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from instructblip_jax.data.record import Record


@dataclasses.dataclass(frozen=True)
class Media:
    """A picture or a video, not yet read.

    Attributes:
      path: the file; of a tar archive's member the archive. A folder of numbered frames is a video.
      offset, size: of the member's bytes in the archive; size 0: the whole file.
      data: the bytes themselves, where a row holds them.
      video: frames are to be taken from it, between ``start`` and ``end`` (seconds; None: its end).
    """

    path: Path | None = None
    offset: int = 0
    size: int = 0
    data: bytes | None = None
    video: bool = False
    start: float = 0.0
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class Draft:
    """``record`` without its pictures, which are to be read from ``media``; ``where``: "FILE:LINE" or "FILE:KEY"."""

    where: str
    record: Record
    media: tuple[Media, ...] = ()


@dataclasses.dataclass(frozen=True)
class Skip:
    """A row that is no record. ``reason`` is one of few phrases, by which the report counts ("empty answer");
    ``detail`` is what is particular to the row."""

    where: str
    reason: str
    detail: str = ""


Rows = Callable[[], Iterator[Draft | Skip]]
"""Streams the rows of a split, in the same order every time."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A data set as its makers publish it.

    Attributes:
      splits: (source, image roots) -> official split name ("val", "test-dev", "zeroshot/test") -> its rows, for the
        splits whose files are there. Raises FileNotFoundError, naming the files that were looked for, if none is.
      expected: split -> records in the real release, so that a partial download is noticed; () where not known.
      vocabulary: source -> the answers that are ranked, for sets judged by a vocabulary.
    """

    splits: Callable[[Path, Sequence[Path]], Mapping[str, Rows]]
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabulary: Callable[[Path], Sequence[str]] | None = None
