"""Write a set: rows in order, shard by shard, in several processes, resuming after an interruption.

While it is being written, the set is in OUT/NAME/3.0.0.incomplete: `configuration.json`, and for each finished shard
its records and a file with the outcome of its rows (`shard.Written`). When all rows are done, `report.json` is written;
the remaining steps are to rename the shards, write the description, remove everything else, and rename the directory.
Each of these steps can be repeated, so a kill at any time only loses the shards being written, and the files of the
finished set are the same as without it.
"""

import contextlib
import dataclasses
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from instructblip_jax.data.places import (
    OLDER,
    REPORT,
    SUFFIX,
    VOCABULARY,
    directory_of,
    incomplete,
    is_prepared,
    new_directory,
)
from instructblip_jax.datasets.draft import Draft, Reading, Rows, Skip
from instructblip_jax.datasets.media import load as media
from instructblip_jax.datasets.prepare.finish import SKIPPED, finish, there
from instructblip_jax.datasets.prepare.pool import Pool, Run
from instructblip_jax.datasets.prepare.report import Report, judge, new_report
from instructblip_jax.datasets.prepare.shard import Chunk, Job, digest_of, finished, replace
from instructblip_jax.datasets.prepare.uids import Uids

Chunks = Callable[[], Iterator[Chunk]]
"""The rows of a split by shard, the same every time."""
SMALLEST, LARGEST, STEPS = 256, 4096, 64
"""Rows per shard: few at first, so that a small set keeps all processes busy; doubled after every ``STEPS`` shards, so
that 14 million rows become 3,500 files."""
_HEAVY = 1 << 16  # bytes that count as one more row
_CONFIGURATION = "configuration.json"
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of writing a set.

    Attributes:
      frames: number of frames to sample from a video.
      configuration: everything on which the rows depend, as JSON; shards written with another one are discarded. Its
        "files" may have digests of the annotation files; if only these change, shards with unchanged rows are kept.
      overwrite: rewrite an existing set; the old one is kept until the new one is complete.
      expected: split -> records of the complete release.
      vocabulary: the answers to be ranked, if any; they are stored next to the records.
      max_skipped: fraction of the rows that may be skipped.
      progress: called with the number of rows whenever a shard is finished, or found to be.
      log: called with a line about any other event.
    """

    frames: int = media.FRAMES
    configuration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    overwrite: bool = False
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabulary: Callable[[], Sequence[str]] | None = None
    max_skipped: float = 1.0
    progress: Callable[[int], None] = lambda rows: None
    log: Callable[[str], None] = print


def write(
    out: str | Path,
    name: str,
    splits: Mapping[str, Rows],
    options: Options | None = None,
    workers: int | None = None,
    run: Run | None = None,
) -> Report:
    """Write the set ``name`` (official split name -> its rows) under ``out``, by ``workers`` processes (default: one
    for each core) or by ``run``.

    An existing set is left unchanged. Raises ValueError for a set of which nothing, or too little, can be written, and
    for a split whose drafts and skips do not add up to the rows of its source; errors of ``splits`` are passed on.
    """
    repeated: dict[str, int] = {}

    def chunks(split: str, rows: Rows) -> Iterator[Chunk]:
        uids = seen
        before = uids.repeated
        for part in _portions(_adding_up(name, split, rows())):
            yield list(uids.distinct(part))
            repeated[split] = uids.repeated - before

    seen = Uids()
    by_shards = {split: (lambda s=split, r=rows: chunks(s, r)) for split, rows in splits.items()}
    with contextlib.ExitStack() as stack:
        run = run or stack.enter_context(Pool(workers)).run
        return write_chunks(out, name, by_shards, run, options, repeated)


def check_name(name: str) -> None:
    """Raise ValueError for an invalid set name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a set's name: letters, digits and _ only, a letter first")


def write_chunks(
    out: str | Path,
    name: str,
    splits: Mapping[str, Chunks],
    run: Run,
    options: Options | None = None,
    repeated: Mapping[str, int] | None = None,
) -> Report:
    """`write` for rows by shard. ``repeated``, split -> number of changed uids, is read after all rows."""
    options = options or Options()
    directory = new_directory(out, name)
    check_name(name)
    if is_prepared(out, name) and not options.overwrite:
        return there(directory_of(out, name), name)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(Path(out) / f".{name}.lock"):
        if is_prepared(out, name) and not options.overwrite:
            return there(directory_of(out, name), name)
        work = incomplete(out, name)
        _remove_begun(work.with_name(f"{OLDER}.incomplete"), name, options.log)
        configuration = {"frames": options.frames, **options.configuration}
        configuration = json.loads(json.dumps(configuration))
        report = _begun(work, name, configuration, options.log)
        if report is None:
            report = new_report(name, configuration, {split: options.expected.get(split) for split in splits})
            _all_shards(work, report, splits, run, options, {} if repeated is None else repeated)
        finish(work, report)
        _replace(work, directory)
        # A set of the older version was overwritten by this one.
        shutil.rmtree(directory.with_name(OLDER), ignore_errors=True)
        report.directory = str(directory)
        return report


def _replace(work: Path, directory: Path) -> None:
    """Rename the complete set; an earlier set with this name is removed only then."""
    before = directory.with_name(f"{directory.name}.replaced")
    if directory.exists():
        shutil.rmtree(before, ignore_errors=True)
        os.rename(directory, before)
    try:
        os.rename(work, directory)
    except OSError:
        if before.exists():
            os.rename(before, directory)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _adding_up(name: str, split: str, rows: Iterator[Draft | Skip]) -> Iterator[Draft | Skip]:
    """The rows of a split. Raises ValueError after the last one, if they represent more or fewer than its source has:
    no report would show that a reader loses rows."""
    reading, count = Reading(rows), 0
    for row in reading:
        count += row.rows
        yield row
    if reading.held is not None and reading.held != count:
        raise ValueError(
            f"{name}, split {split}: its source has {reading.held:,} rows, and {count:,} were read or counted as "
            "skipped; this is a bug of the reader, so no set is written: please report it with the file's first rows"
        )


def _portions(rows: Iterator[Draft | Skip]) -> Iterator[list[Draft | Skip]]:
    """Rows by shard. A large row counts as several, so that every shard fits in memory."""
    portion: list[Draft | Skip] = []
    weight = number = 0
    for row in rows:
        portion.append(row)
        weight += 1
        if isinstance(row, Draft):
            weight += len(row.record.candidates) // 16 + sum(len(one.data or b"") for one in row.media) // _HEAVY
        if weight >= min(LARGEST, SMALLEST << (number // STEPS)):
            yield portion
            portion, weight, number = [], 0, number + 1
    if portion:
        yield portion


def _remove_begun(older: Path, name: str, log: Callable[[str], None]) -> None:
    """Remove an unfinished set of an earlier version of this package, whose shards have another format."""
    if older.exists():
        log(f"{name}: what is in {older} was begun by an earlier version; starting anew")
        shutil.rmtree(older)


def _begun(work: Path, name: str, configuration: dict[str, Any], log: Callable[[str], None]) -> Report | None:
    """The report, if all rows are done; else None, with the directory prepared for the remaining rows."""
    if work.exists():
        report = None
        with contextlib.suppress(OSError, ValueError):
            report = Report.from_json(json.loads((work / REPORT).read_bytes()))
        before = report.configuration if report else None
        with contextlib.suppress(OSError, ValueError):
            before = before or json.loads((work / _CONFIGURATION).read_bytes())
        changed = sorted(
            key for key in {*(before or {}), *configuration} if (before or {}).get(key) != configuration.get(key)
        )
        if before is not None and (not changed or (changed == ["files"] and report is None)):
            log(f"{name}: going on with what is in {work}")
            return report
        log(f"{name}: what is in {work} was begun with another {' and '.join(changed)}; starting anew")
        shutil.rmtree(work)
    work.mkdir(parents=True)
    replace(work / _CONFIGURATION, json.dumps(configuration))
    return None


def _all_shards(
    work: Path,
    report: Report,
    splits: Mapping[str, Chunks],
    run: Run,
    options: Options,
    repeated: Mapping[str, int],
) -> None:
    """Write the missing shards, then the report. Raises ValueError if too little could be written."""
    counts = dict.fromkeys(splits, 0)

    def jobs() -> Iterator[Job]:
        for split, chunks in splits.items():
            for chunk in chunks():
                stem = work / f"{report.splits[split].files}.{counts[split]:06d}"
                counts[split] += 1
                payload = pickle.dumps(chunk, protocol=5)
                digest = digest_of(payload)
                before = finished(stem)
                if before is not None and before.digest == digest:
                    options.progress(before.rows)
                else:
                    yield Job(str(stem), payload, digest, options.frames)

    for rows in run(jobs()):
        options.progress(rows)
    for split, own in report.splits.items():
        own.repeated = repeated.get(split, 0)
    with (work / f"{SKIPPED}.part").open("w", encoding="utf-8") as skipped:
        for split, count in counts.items():
            for stem in _stems(work, report.splits[split].files, count):
                written = finished(stem)
                if written is None:
                    raise OSError(f"{stem}{SUFFIX}: was written, but no longer exists or is damaged")
                report.splits[split].add(written)
                for where, reason, detail in written.skips:
                    row = {"split": split, "where": where, "reason": reason, "detail": detail}
                    skipped.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(work / f"{SKIPPED}.part", work / SKIPPED)
    try:
        judge(report, options.max_skipped)
    except ValueError:
        # The next attempt must retry media that could not be read, because they may have been repaired.
        for split, count in counts.items():
            for stem in _stems(work, report.splits[split].files, count):
                written = finished(stem)
                if written is not None and written.unread:
                    stem.with_name(f"{stem.name}.json").unlink()
        raise
    # Shards of rows that the source no longer has.
    for split, count in counts.items():
        files = report.splits[split].files
        for path in (*work.glob(f"{files}.*.json"), *work.glob(f"{files}.*{SUFFIX}")):
            if int(path.name.split(".")[1]) >= count:
                path.unlink()
    if options.vocabulary is not None:
        replace(work / VOCABULARY, json.dumps(list(options.vocabulary()), ensure_ascii=False) + "\n")
    replace(work / REPORT, json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")


def _stems(work: Path, split: str, count: int) -> list[Path]:
    return [work / f"{split}.{number:06d}" for number in range(count)]
