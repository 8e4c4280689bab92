"""The work in parts, in the order of the sources: a part's texts are one file, written atomically.

A file begins with a digest of the part's rows and of everything else on which its texts depend. A file with another
digest is ignored, so a restart, on any number of hosts, does only the missing parts.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import key_of
from instructblip_jax.datasets.draft import Draft, Reading, Rows, Skip
from instructblip_jax.datasets.prepare.shard import replace

WEB, SYNTHETIC = "web", "synthetic"
"""The sources of texts."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """A text about an image: ``source`` is `WEB` or `SYNTHETIC`, ``probability`` that it matches the image."""

    source: str
    text: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The texts of a row; or the ``reason`` why its image could not be read, with a detail about the row."""

    texts: tuple[Judged, ...] = ()
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of the sources, and the file of their texts."""

    number: int
    rows: Sequence[Draft | Skip]
    path: Path
    digest: str

    @property
    def drafts(self) -> list[Draft]:
        """The rows with an image and a text."""
        return [row for row in self.rows if isinstance(row, Draft)]

    def read(self) -> list[Outcome] | None:
        """The outcomes of `drafts`; None if the file does not exist, or has other rows or settings."""
        if not self.drafts:
            return []
        try:
            first, *lines = self.path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ValueError):  # ValueError: an empty file has no first line
            return None
        if json.loads(first) != {"digest": self.digest}:
            return None
        return [_outcome(json.loads(line)) for line in lines]

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Write the file."""
        lines = [{"digest": self.digest}]
        for draft, outcome in zip(self.drafts, outcomes, strict=True):
            lines.append({"uid": draft.record.uid, **dataclasses.asdict(outcome)})
        replace(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def _outcome(line: Mapping[str, Any]) -> Outcome:
    return Outcome(tuple(Judged(**text) for text in line["texts"]), line["reason"], line["detail"])


def parts(rows: Rows, size: int, folder: Path, settings: Mapping[str, Any]) -> Generator[Part, None, int | None]:
    """``rows`` in parts of ``size``. ``settings``: everything else on which texts depend, as JSON. The generator
    returns the number of rows in the sources."""
    found = Reading(rows())
    rest, number = iter(found), 0
    while part := list(itertools.islice(rest, size)):
        yield Part(number, part, folder / f"{number:06d}.jsonl", _digest(part, settings))
        number += 1
    return found.held


def _digest(rows: Sequence[Draft | Skip], settings: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for row in rows:
        if isinstance(row, Draft):
            media = [(str(one.path), one.offset, one.size, key_of(one.data or b"").hex()) for one in row.media]
            digest.update(json.dumps([row.record.to_json(), media]).encode())
    return digest.hexdigest()
