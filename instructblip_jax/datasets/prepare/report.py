"""The report on a set's rows: a table for people, report.json for programs, skipped.jsonl for repairs."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from instructblip_jax.data.places import on_disk
from instructblip_jax.data.record import FRAME, IMAGE
from instructblip_jax.datasets.prepare.shard import Written

FIRST = 5
"""Number of skips shown for each reason."""


@dataclasses.dataclass
class SplitReport:
    """The report on a split, under its official name.

    Attributes:
      files: the split's name in the files, and in TFDS.
      rows, written, skipped, bytes: numbers of rows, of records and of skips; total size of the records.
      reasons: count of each reason for a skip; ``first`` has the first skips of each, as {"where", "detail"}.
      repeated: number of repeated uids, which were written with the suffix "#2", "#3", ...
      by_kinds: kinds of media in order, joined by spaces ("" for none) -> number of records with exactly these; empty
        if an early version wrote the set.
      pictured, missing: rows with media, and those of them whose media do not exist.
      expected: records of the complete release; None if unknown.
      shards: number of records of each.
      digest: of all records, in order; "" if there are none.
      held: rows of the source that all these represent: captions of an image may be one record.
      noted: count of parts that were joined or left out of a record, by phrase; ``first_noted`` has the first places.
    """

    files: str
    rows: int = 0
    written: int = 0
    skipped: int = 0
    bytes: int = 0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    first: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    repeated: int = 0
    by_kinds: dict[str, int] = dataclasses.field(default_factory=dict)
    pictured: int = 0
    missing: int = 0
    expected: int | None = None
    shards: list[int] = dataclasses.field(default_factory=list)
    digest: str = ""
    held: int = 0
    noted: dict[str, int] = dataclasses.field(default_factory=dict)
    first_noted: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, shard: Written) -> None:
        """Add the counts of a shard."""
        self.rows += shard.rows
        self.written += shard.written
        self.skipped += len(shard.skips)
        self.bytes += shard.bytes
        for kinds, count in shard.by_kinds.items():
            self.by_kinds[kinds] = self.by_kinds.get(kinds, 0) + count
        self.pictured += shard.pictured
        self.missing += shard.missing
        if shard.written:
            self.shards.append(shard.written)
            self.digest = hashlib.blake2b((self.digest + shard.content).encode(), digest_size=16).hexdigest()
        for where, reason, detail in shard.skips:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            first = self.first.setdefault(reason, [])
            if len(first) < FIRST:
                first.append({"where": where, "detail": detail})
        self.held += shard.held
        for where, note in shard.notes:
            self.noted[note] = self.noted.get(note, 0) + 1
            places = self.first_noted.setdefault(note, [])
            if len(places) < FIRST:
                places.append(where)


@dataclasses.dataclass
class Report:
    """The report on a set. ``directory`` is its location, ``kept`` is True if it already existed; neither is in the
    file."""

    name: str
    configuration: dict[str, Any]
    splits: dict[str, SplitReport]
    directory: str = ""
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """The content of report.json: the same for the same rows, after any number of interruptions."""
        content = dataclasses.asdict(self)
        return {key: value for key, value in content.items() if key not in ("directory", "kept")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Report":
        """The inverse of `to_json`, also for sets of the older version. Raises ValueError for anything else."""
        try:
            splits = {split: SplitReport(**_current(fields)) for split, fields in content["splits"].items()}
            return cls(**{**content, "splits": splits})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the report of a prepared set ({error})") from error

    def notes(self) -> Iterator[str]:
        """Remarks on unusual, but valid, properties."""
        for split, own in self.splits.items():
            if own.expected is not None and own.written + own.skipped != own.expected:
                yield f"{split}: {own.rows:,} rows of the {own.expected:,} of the release; a partial download?"
            for note, count in sorted(own.noted.items()):
                places = ", ".join(own.first_noted[note])
                yield f"{split}: {count:,} × {note}: {places}" + (" and more" if count > FIRST else "")
            if own.held not in (0, own.rows):
                yield f"{split}: {own.rows:,} records and skips stand for {own.held:,} rows of the source"
            if own.repeated:
                yield f"{split}: {own.repeated:,} rows have the id of an earlier one; #2, #3, … was put behind it"
            if len({kinds or IMAGE for kinds in own.by_kinds}) > 1:
                counts = sorted((kinds.split(), count) for kinds, count in own.by_kinds.items())
                counts.sort(key=lambda one: len(one[0]))
                rows = ", ".join(f"{_rows(count)} {_media(kinds)}" for kinds, count in counts)
                yield f"{split}: {rows}; each gets batches of its own"
            if own.pictured and own.missing == own.pictured:
                yield f"{split}: none of its pictures is there"
            if not own.rows:
                yield f"{split}: no rows"
            elif not own.written:
                yield f"{split}: every row was skipped, so there is no such split in the set"
            elif own.files != split:
                yield f"{split}: called {own.files} in the files"

    def lines(self) -> Iterator[str]:
        """The table: a line for each split, then each reason with its first rows, then the notes."""
        width = max([len(split) for split in self.splits] + [5])
        yield f"{'split':<{width}} {'written':>12} {'skipped':>10}  reasons"
        for split, own in self.splits.items():
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(own.reasons.items()))
            noted = ", ".join(f"{count:,} {note}" for note, count in sorted(own.noted.items()))
            reasons += f"{'; ' if reasons else ''}noted: {noted}" if noted else ""
            yield f"{split:<{width}} {own.written:>12,} {own.skipped:>10,}  {reasons}".rstrip()
        for split, own in self.splits.items():
            for reason, first in sorted(own.first.items()):
                yield f"{split}: {reason} ({own.reasons[reason]:,})"
                yield from (f"  {row['where']}: {row['detail']}".rstrip(": ") for row in first)
                if own.reasons[reason] > len(first):
                    yield f"  and {own.reasons[reason] - len(first):,} more"
        yield from (f"note: {note}" for note in self.notes())
        if self.directory:
            more = " and skipped.jsonl" if any(own.skipped for own in self.splits.values()) else ""
            yield f"report: {self.directory}/report.json{more}"


def _rows(count: int) -> str:
    return "1 row shows" if count == 1 else f"{count:,} rows show"


_NOUNS = {IMAGE: ("picture", "pictures"), FRAME: ("frame", "frames")}


def _media(kinds: list[str]) -> str:
    """The kinds of a record's media in words: "2 pictures", "1 picture and 1 audio"."""
    counts = Counter(kinds)
    words = [f"{count:,} {_NOUNS.get(kind, (kind, kind))[count > 1]}" for kind, count in counts.items()]
    return " and ".join(words) or "no picture"


def _current(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A split's fields in a report of the older version, which counts images -> those of this version."""
    older = {"pictures", "by_pictures"}
    pictures = {" ".join([IMAGE] * int(number)): count for number, count in fields.get("by_pictures", {}).items()}
    kept = {name: value for name, value in fields.items() if name not in older}
    return kept | ({"by_kinds": pictures} if pictures else {})


def new_report(name: str, configuration: Mapping[str, Any], splits: Mapping[str, int | None]) -> Report:
    """A report without counts; ``splits``: official name -> expected records. Raises ValueError for splits with the
    same name in files."""
    empty = {split: SplitReport(files=on_disk(split), expected=expected) for split, expected in splits.items()}
    if len({one.files for one in empty.values()}) < len(empty):
        raise ValueError(f"{name}: splits {', '.join(empty)} have the same name in files")
    return Report(name, dict(configuration), empty)


def judge(report: Report, max_skipped: float) -> None:
    """Raise ValueError with the counts for a set with too few records; ``max_skipped``: a fraction of the rows."""
    splits = report.splits.values()
    rows, written, skipped = (sum(getattr(one, field) for one in splits) for field in ("rows", "written", "skipped"))
    pictured, missing = (sum(getattr(one, field) for one in splits) for field in ("pictured", "missing"))
    if not rows:
        raise ValueError(f"{report.name}: no row in any split ({', '.join(report.splits)}), so nothing is written")
    reasons: dict[str, int] = {}
    for one in splits:
        for reason, count in one.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    if pictured and missing == pictured:
        first = [
            row["detail"]
            for one in splits
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
            f"{max_skipped:g}; finished shards are kept"
        )
