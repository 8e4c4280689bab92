"""Question generation on VQAv2, OKVQA and A-OKVQA: the same files with question and answer swapped.

The slot ``answer`` is the most frequent answer, and the question is the target. Splits without answers are left out,
and rows whose answer is "unanswerable" are skipped.
"""

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Reading, Release, Rows, Skip
from instructblip_jax.datasets.readers.source_rows import nonempty


def _swapped(name: str, rows: Rows) -> Generator[Draft | Skip, None, int | None]:
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
        split: partial(_swapped, name, rows) for split, rows in found.items() if not split.startswith("test")
    }
    return nonempty(splits, source, "the files of a split with answers (train or val)")


def swapped(base: Release, name: str) -> Release:
    """The question generation set ``name`` made from the question answering set ``base``."""
    expected = {split: count for split, count in base.expected.items() if not split.startswith("test")}
    return Release(partial(_splits, base, name), expected)
