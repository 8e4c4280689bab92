"""What became of a set's rows: a table for people, report.json for programs, skipped.jsonl for whoever mends them."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from instructblip_jax.data.places import on_disk
from instructblip_jax.datasets.prepare.shard import Written

FIRST = 5
"""Skips of each reason that are shown."""


@dataclasses.dataclass
class SplitReport:
    """Of a split, under its official name.

    Attributes:
      files: the split's name in the files, and in TFDS.
      rows, written, skipped, bytes: counts; records written, together of so many bytes.
      reasons: of the skips, and the ``first`` ones of each, as {"where", "detail"}.
      repeated: uids that were there before, and got "#2" and so on behind them.
      pictures: the most that a record has, frames counted.
      by_pictures: number of pictures, as text -> records that have so many; empty where an earlier version wrote.
      pictured, missing: rows with pictures, and of them those whose pictures are not there.
      expected: records of the whole release; None where that is not known.
      shards: records of each.
      digest: of all records, in order; "" where there are none.
      held: rows of the source that all these stand for: captions of a picture may be one record.
      noted: what was joined or left out of records, how often, and of each the ``first_noted`` places.
    """

    files: str
    rows: int = 0
    written: int = 0
    skipped: int = 0
    bytes: int = 0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    first: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    repeated: int = 0
    pictures: int = 0
    by_pictures: dict[str, int] = dataclasses.field(default_factory=dict)
    pictured: int = 0
    missing: int = 0
    expected: int | None = None
    shards: list[int] = dataclasses.field(default_factory=list)
    digest: str = ""
    held: int = 0
    noted: dict[str, int] = dataclasses.field(default_factory=dict)
    first_noted: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, told: Written) -> None:
        """Count a shard."""
        self.rows += told.rows
        self.written += told.written
        self.skipped += len(told.skips)
        self.bytes += told.bytes
        self.pictures = max(self.pictures, told.pictures)
        for number, count in told.by_pictures.items():
            self.by_pictures[number] = self.by_pictures.get(number, 0) + count
        self.pictured += told.pictured
        self.missing += told.missing
        if told.written:
            self.shards.append(told.written)
            self.digest = hashlib.blake2b((self.digest + told.content).encode(), digest_size=16).hexdigest()
        for where, reason, detail in told.skips:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            first = self.first.setdefault(reason, [])
            if len(first) < FIRST:
                first.append({"where": where, "detail": detail})
        self.held += told.held
        for where, note in told.notes:
            self.noted[note] = self.noted.get(note, 0) + 1
            places = self.first_noted.setdefault(note, [])
            if len(places) < FIRST:
                places.append(where)


@dataclasses.dataclass
class Report:
    """Of a set. ``directory`` is where it lies, ``kept`` whether it was there already; neither is in the file."""

    name: str
    configuration: dict[str, Any]
    splits: dict[str, SplitReport]
    directory: str = ""
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """For report.json: the same for the same rows, however often the work was broken off."""
        content = dataclasses.asdict(self)
        return {key: value for key, value in content.items() if key not in ("directory", "kept")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Report":
        """The inverse. Raises ValueError for something else."""
        try:
            splits = {split: SplitReport(**told) for split, told in content["splits"].items()}
            return cls(**{**content, "splits": splits})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the report of a prepared set ({error})") from error

    def notes(self) -> Iterator[str]:
        """What is odd, but no error."""
        for split, told in self.splits.items():
            if told.expected is not None and told.written + told.skipped != told.expected:
                yield f"{split}: {told.rows:,} rows of the {told.expected:,} of the release; a partial download?"
            for note, count in sorted(told.noted.items()):
                places = ", ".join(told.first_noted[note])
                yield f"{split}: {count:,} × {note}: {places}" + (" and more" if count > FIRST else "")
            if told.held not in (0, told.rows):
                yield f"{split}: {told.rows:,} records and skips stand for {told.held:,} rows of the source"
            if told.repeated:
                yield f"{split}: {told.repeated:,} rows have the id of an earlier one; #2, #3, … was put behind it"
            if told.pictures > 1 and len(told.by_pictures) > 1:
                counts = sorted((int(number), count) for number, count in told.by_pictures.items())
                rows = ", ".join(f"{_rows(count)} {_pictures(number)}" for number, count in counts)
                yield f"{split}: {rows}; each number of pictures gets batches of its own"
            if told.pictured and told.missing == told.pictured:
                yield f"{split}: none of its pictures is there"
            if not told.rows:
                yield f"{split}: no rows"
            elif not told.written:
                yield f"{split}: every row was skipped, so there is no such split in the set"
            elif told.files != split:
                yield f"{split}: called {told.files} in the files"

    def lines(self) -> Iterator[str]:
        """The table: a line a split, then each reason with its first rows, then what is odd."""
        width = max([len(split) for split in self.splits] + [5])
        yield f"{'split':<{width}} {'written':>12} {'skipped':>10}  reasons"
        for split, told in self.splits.items():
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(told.reasons.items()))
            noted = ", ".join(f"{count:,} {note}" for note, count in sorted(told.noted.items()))
            reasons += f"{'; ' if reasons else ''}noted: {noted}" if noted else ""
            yield f"{split:<{width}} {told.written:>12,} {told.skipped:>10,}  {reasons}".rstrip()
        for split, told in self.splits.items():
            for reason, first in sorted(told.first.items()):
                yield f"{split}: {reason} ({told.reasons[reason]:,})"
                yield from (f"  {row['where']}: {row['detail']}".rstrip(": ") for row in first)
                if told.reasons[reason] > len(first):
                    yield f"  and {told.reasons[reason] - len(first):,} more"
        yield from (f"note: {note}" for note in self.notes())
        if self.directory:
            more = " and skipped.jsonl" if any(told.skipped for told in self.splits.values()) else ""
            yield f"report: {self.directory}/report.json{more}"


def _rows(count: int) -> str:
    return "1 row shows" if count == 1 else f"{count:,} rows show"


def _pictures(number: int) -> str:
    return "no picture" if number == 0 else "1 picture" if number == 1 else f"{number:,} pictures"


def new_report(name: str, configuration: Mapping[str, Any], splits: Mapping[str, int | None]) -> Report:
    """Of nothing yet; ``splits``: official name -> expected records. Raises ValueError for names that fall together."""
    told = {split: SplitReport(files=on_disk(split), expected=expected) for split, expected in splits.items()}
    if len({one.files for one in told.values()}) < len(told):
        raise ValueError(f"{name}: splits {', '.join(told)} have the same name in files")
    return Report(name, dict(configuration), told)


def judge(report: Report, max_skipped: float) -> None:
    """Raise ValueError, telling counts, for a set of which too little is left; ``max_skipped``: a share of the rows."""
    told = report.splits.values()
    rows, written, skipped = (sum(getattr(one, field) for one in told) for field in ("rows", "written", "skipped"))
    pictured, missing = (sum(getattr(one, field) for one in told) for field in ("pictured", "missing"))
    if not rows:
        raise ValueError(f"{report.name}: no row in any split ({', '.join(report.splits)}), so nothing is written")
    reasons: dict[str, int] = {}
    for one in told:
        for reason, count in one.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    if pictured and missing == pictured:
        first = [
            row["detail"]
            for one in told
            for reason in one.first
            if reason.startswith("missing ")
            for row in one.first[reason]
        ]
        raise ValueError(
            f"{report.name}: none of the pictures of {pictured:,} rows is there; is --images right? Looked for "
            + ", ".join(first[:5])
        )
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda one: -one[1]))
    if not written:
        raise ValueError(f"{report.name}: all {rows:,} rows were skipped ({counts})")
    if skipped > max_skipped * rows:
        raise ValueError(
            f"{report.name}: {skipped:,} of {rows:,} rows were skipped ({counts}), which is more than --max_skipped "
            f"{max_skipped:g}; what is finished is kept"
        )
