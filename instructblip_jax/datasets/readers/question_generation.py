"""Question generation on VQAv2, OKVQA and A-OKVQA: their own files, read the other way round.

The slot ``answer`` is the most frequent answer, and the question is to be said. Splits without answers have no such
records; an answer "unanswerable" asks for nothing.
"""

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Reading, Release, Rows, Skip
from instructblip_jax.datasets.readers.rows import some


def _turned(name: str, rows: Rows) -> Generator[Draft | Skip, None, int | None]:
    reading = Reading(rows())
    for draft in reading:
        if isinstance(draft, Skip):
            yield draft
        elif draft.record.answers[0].lower() == "unanswerable":
            yield Skip(draft.where, "unanswerable", rows=draft.rows)
        else:
            old = draft.record
            record = Record(
                uid=name + old.uid.removeprefix(old.dataset),
                dataset=name,
                split=old.split,
                task="vqg",
                media=(),
                slots={"answer": old.answers[0]},
                answers=(old.slots["question"],),
                image_id=old.image_id,
                question_id=old.question_id,
            )
            yield Draft(draft.where, record, draft.media, draft.rows)
    return reading.held


def _splits(base: Release, name: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    found = base.splits(source, images)
    splits: dict[str, Rows] = {
        split: partial(_turned, name, rows) for split, rows in found.items() if not split.startswith("test")
    }
    return some(splits, source, "the files of a split with answers (train or val)")


def turned(base: Release, name: str) -> Release:
    """The set ``name`` made of ``base``."""
    expected = {split: count for split, count in base.expected.items() if not split.startswith("test")}
    return Release(partial(_splits, base, name), expected)
