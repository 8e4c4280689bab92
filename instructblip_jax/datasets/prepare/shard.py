"""One shard of a prepared set, written by any process: the same drafts give the same bytes."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from instructblip_jax.data.places import MEDIA, RECORD, SUFFIX
from instructblip_jax.data.record import DOCUMENT, FRAME, Medium, Record
from instructblip_jax.datasets.draft import Draft, Skip
from instructblip_jax.datasets.media import documents
from instructblip_jax.datasets.media import load as media
from instructblip_jax.processors.content import UnusableMediaError

Item = Draft | Skip | Record
Chunk = list[Item] | Callable[[], Iterable[Item]]
"""The content of a shard: rows, or a function that makes them, which is called in the writing process."""
_DETAIL = 300
"""Maximum number of characters of a skip's detail."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A shard to write: ``stem`` is its path without a suffix, ``payload`` the pickled `Chunk` or its file."""

    stem: str
    payload: bytes | Path
    digest: str
    frames: int


@dataclasses.dataclass(frozen=True)
class Written:
    """The content of the file next to a finished shard.

    Attributes:
      digest: of its rows.
      rows, written: number of rows, and of those that became records.
      bytes: total size of the records.
      size: size of the shard's file; None if no record was written, and there is no file.
      content: a digest of the records.
      by_kinds: kinds of media in order, joined by spaces -> number of records with exactly these.
      pictured, missing: rows with media, and those of them whose media do not exist.
      unread: rows skipped because their media could not be read.
      skips: (where, reason, detail) of every skipped row, in order.
      held: rows of the source that all these represent.
      notes: (where, note) of parts that were joined or left out of a record.
    """

    digest: str
    rows: int
    written: int
    bytes: int
    size: int | None
    content: str
    by_kinds: dict[str, int]
    pictured: int
    missing: int
    unread: int
    skips: list[tuple[str, str, str]]
    held: int
    notes: list[tuple[str, str]]


def digest_of(payload: bytes) -> str:
    """The digest of a shard's rows."""
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def finished(stem: str | Path) -> Written | None:
    """The content of the file next to a shard; None if it is not finished, or its records have changed."""
    try:
        written = Written(**json.loads(Path(f"{stem}.json").read_bytes()))
        size = os.stat(f"{stem}{SUFFIX}").st_size if written.size is not None else None
    except (OSError, ValueError, TypeError):
        return None
    return written if size == written.size else None


def write_shard(job: Job) -> int:
    """Write the records of a job's rows, and a file with the outcome of each row; returns the number of rows.

    Each file is renamed when it is complete, the records first: a shard is finished when both exist.
    """
    payload = job.payload if isinstance(job.payload, bytes) else job.payload.read_bytes()
    chunk: Chunk = pickle.loads(payload)
    part = f"{job.stem}.{os.getpid()}.part"
    try:
        written = _write(part, chunk if isinstance(chunk, list) else chunk(), job)
        if written.size is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{job.stem}{SUFFIX}")
        else:
            os.replace(part, f"{job.stem}{SUFFIX}")
        replace(f"{job.stem}.json", json.dumps(dataclasses.asdict(written), ensure_ascii=True))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    return written.rows


def replace(path: str | Path, text: str) -> None:
    """Write a file atomically."""
    part = Path(f"{path}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


class _Tally:
    """Counts while a shard is written."""

    def __init__(self) -> None:
        self.rows = self.written = self.bytes = self.held = 0
        self.pictured = self.missing = self.unread = 0
        self.by_kinds: dict[str, int] = {}
        self.content = hashlib.blake2b(digest_size=16)
        self.skips: list[tuple[str, str, str]] = []
        self.notes: list[tuple[str, str]] = []

    def skip(self, where: str, reason: str, detail: str = "") -> None:
        self.skips.append((_printable(where), _printable(reason), _printable(detail[:_DETAIL])))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _write(part: str, items: Iterable[Item], job: Job) -> Written:
    tally, writer = _Tally(), None
    try:
        for example in _examples(items, tally, media.Recent(job.frames)):
            # Groups of one record, as in TFDS, so that a record can be read alone.
            writer = writer or ArrayRecordWriter(part, "group_size:1")
            writer.write(example)
            tally.written += 1
            tally.bytes += len(example)
            tally.content.update(example)
        if writer is not None:
            writer.close()
    except RuntimeError as error:  # the writer's, of a full disk
        raise OSError(f"{part}: {error}") from error
    return Written(
        digest=job.digest,
        rows=tally.rows,
        written=tally.written,
        bytes=tally.bytes,
        size=os.stat(part).st_size if tally.written else None,
        content=tally.content.hexdigest(),
        by_kinds=dict(sorted(tally.by_kinds.items())),
        pictured=tally.pictured,
        missing=tally.missing,
        unread=tally.unread,
        skips=tally.skips,
        held=tally.held,
        notes=tally.notes,
    )


def _examples(items: Iterable[Item], tally: _Tally, load: media.Recent) -> Iterator[bytes]:
    for item in items:
        tally.rows += 1
        tally.held += 1 if isinstance(item, Record) else item.rows
        if isinstance(item, Skip):
            tally.skip(item.where, item.reason, item.detail)
            continue
        where = item.where if isinstance(item, Draft) else item.uid
        notes: tuple[str, ...] = ()
        try:
            record, notes = _with_media(item, tally, load) if isinstance(item, Draft) else (item, ())
            example = _example(record)
            kinds = " ".join(medium.kind for medium in record.media)
            tally.by_kinds[kinds] = tally.by_kinds.get(kinds, 0) + 1
        except UnusableMediaError as error:
            tally.unread += 1
            tally.missing += error.reason.startswith("missing ")
            tally.skip(where, error.reason, error.detail)
        except UnicodeEncodeError as error:  # half of a surrogate pair
            tally.skip(where, "text that is no Unicode", str(error))
        else:
            tally.notes += [(_printable(where), note) for note in notes]
            yield example


def _with_media(draft: Draft, tally: _Tally, load: media.Recent) -> tuple[Record, tuple[str, ...]]:
    """The record with its media, and notes about it."""
    tally.pictured += bool(draft.media)
    if draft.record.task == DOCUMENT:
        record, notes = documents.with_pictures(draft)
        return record, (*draft.notes, *notes)
    loaded = [Medium(FRAME if one.video else one.kind, data) for one in draft.media for data in load(one)]
    return dataclasses.replace(draft.record, media=tuple(loaded)), draft.notes


def _example(record: Record) -> bytes:
    """A record with the fields of `places.FEATURES`, serialised here, because TFDS's own serialiser uses NumPy arrays
    and a random order of fields."""
    text = record.to_json().encode("utf-8")
    example = tf_example_pb2.Example()
    fields: Any = example.features.feature
    fields[MEDIA].bytes_list.value.extend(medium.data for medium in record.media)
    fields[RECORD].bytes_list.value.append(text)
    return example.SerializeToString(deterministic=True)
