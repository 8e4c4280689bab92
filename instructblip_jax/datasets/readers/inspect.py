"""Summarizes a release before it is prepared: record counts, problems, text lengths."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from instructblip_jax.datasets.draft import Draft, Media, Rows

EXAMPLES = 3
PERCENTILES = (50, 95, 99, 100)


def summary(splits: Mapping[str, Rows], examples: int = EXAMPLES) -> dict[str, Any]:
    """Split -> number of records, skips by reason, missing images and the first path that was tried, duplicate ids,
    tasks, percentiles of the number of words in instructions and answers, and the first ``examples`` records as JSON.
    """
    return {split: _split(rows, examples) for split, rows in splits.items()}


def _split(rows: Rows, examples: int) -> dict[str, Any]:
    reasons, tasks, notes = Counter[str](), Counter[str](), Counter[str]()
    words: dict[str, Counter[int]] = {"instruction": Counter(), "answer": Counter()}
    seen: set[int] = set()
    records = missing = twice = 0
    tried = ""
    first: list[str] = []
    for row in rows():
        if not isinstance(row, Draft):
            reasons[row.reason] += 1
            continue
        notes.update(row.notes)
        record = row.record
        records += 1
        tasks[record.task] += 1
        gone = [str(media.path) for media in row.media if not _there(media)]
        missing += bool(gone)
        tried = tried or next(iter(gone), "")
        name = hash(record.uid)
        twice += name in seen
        seen.add(name)
        instructions = [record.instruction] if record.instruction else [question for question, _ in record.turns]
        answers = record.answers or tuple(answer for _, answer in record.turns)
        words["instruction"].update(len(text.split()) for text in instructions)
        words["answer"].update(len(text.split()) for text in answers)
        if len(first) < examples:
            first.append(record.to_json())
    return {
        "records": records,
        "skipped": sum(reasons.values()),
        "reasons": dict(reasons.most_common()),
        "noted": dict(notes.most_common()),
        "missing_pictures": missing,
        "first_missing": tried,
        "duplicate_ids": twice,
        "tasks": dict(tasks.most_common()),
        "words": {what: percentiles(counts) for what, counts in words.items() if counts},
        "examples": first,
    }


def _there(media: Media) -> bool:
    return media.data is not None or (media.path is not None and media.path.exists())


def percentiles(counts: Mapping[int, int]) -> dict[str, int]:
    """`PERCENTILES` of lengths, given length -> number of occurrences."""
    lengths = sorted(counts)
    upto = list(itertools.accumulate(counts[length] for length in lengths))
    return {
        f"p{percent}": next(
            length for length, total in zip(lengths, upto, strict=True) if 100 * total >= percent * upto[-1]
        )
        for percent in PERCENTILES
    }


def report(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary as text for people."""
    lines = []
    for split, part in found.items():
        tasks = ", ".join(f"{count:,} {task}" for task, count in part["tasks"].items())
        lines.append(f"{split}: {part['records']:,} records ({tasks or 'none'}), {part['skipped']:,} skipped")
        lines += [f"  skipped: {reason:<40} {count:>8,}" for reason, count in part["reasons"].items()]
        lines += [f"  noted: {note:<42} {count:>8,}" for note, count in part["noted"].items()]
        if part["missing_pictures"]:
            lines.append(f"  missing pictures: {part['missing_pictures']:,}, the first of them {part['first_missing']}")
            lines.append("  (--images=DIRECTORY names the folder that the files' paths begin from)")
        if part["duplicate_ids"]:
            lines.append(f"  duplicate ids: {part['duplicate_ids']:,}")
        for what, lengths in part["words"].items():
            lines.append(f"  words of an {what}: " + ", ".join(f"{name} {count}" for name, count in lengths.items()))
        lines += [f"  {example}" for example in part["examples"]]
    return "\n".join(lines)
