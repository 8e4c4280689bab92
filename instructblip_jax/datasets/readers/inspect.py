"""A look at a release before it is prepared: how much there is, what is wrong with it, how long its texts are."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from instructblip_jax.datasets.draft import Draft, Media, Rows

EXAMPLES = 3
PERCENTILES = (50, 95, 99, 100)


def summary(splits: Mapping[str, Rows], examples: int = EXAMPLES) -> dict[str, Any]:
    """Split -> records, skips by reason, pictures that are not there, ids that are there twice, tasks, words of
    instructions and answers (percentiles), the first records as JSON."""
    return {split: _split(rows, examples) for split, rows in splits.items()}


def _split(rows: Rows, examples: int) -> dict[str, Any]:
    reasons, tasks, notes = Counter[str](), Counter[str](), Counter[str]()
    words: dict[str, Counter[int]] = {"instruction": Counter(), "answer": Counter()}
    seen: set[int] = set()
    records = missing = twice = 0
    first: list[str] = []
    for row in rows():
        if not isinstance(row, Draft):
            reasons[row.reason] += 1
            continue
        notes.update(row.notes)
        record = row.record
        records += 1
        tasks[record.task] += 1
        missing += not all(map(_there, row.media))
        name = hash(record.uid)
        twice += name in seen
        seen.add(name)
        asked = [record.instruction] if record.instruction else [question for question, _ in record.turns]
        said = record.answers or tuple(answer for _, answer in record.turns)
        words["instruction"].update(len(text.split()) for text in asked)
        words["answer"].update(len(text.split()) for text in said)
        if len(first) < examples:
            first.append(record.to_json())
    return {
        "records": records,
        "skipped": sum(reasons.values()),
        "reasons": dict(reasons.most_common()),
        "noted": dict(notes.most_common()),
        "missing_pictures": missing,
        "duplicate_ids": twice,
        "tasks": dict(tasks.most_common()),
        "words": {what: percentiles(counts) for what, counts in words.items() if counts},
        "examples": first,
    }


def _there(media: Media) -> bool:
    return media.data is not None or (media.path is not None and media.path.exists())


def percentiles(counts: Mapping[int, int]) -> dict[str, int]:
    """Of lengths and how often each is there."""
    lengths = sorted(counts)
    upto = list(itertools.accumulate(counts[length] for length in lengths))
    return {
        f"p{percent}": next(
            length for length, total in zip(lengths, upto, strict=True) if 100 * total >= percent * upto[-1]
        )
        for percent in PERCENTILES
    }


def report(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary for people."""
    lines = []
    for split, told in found.items():
        tasks = ", ".join(f"{count:,} {task}" for task, count in told["tasks"].items())
        lines.append(f"{split}: {told['records']:,} records ({tasks or 'none'}), {told['skipped']:,} skipped")
        lines += [f"  skipped: {reason:<40} {count:>8,}" for reason, count in told["reasons"].items()]
        lines += [f"  noted: {note:<42} {count:>8,}" for note, count in told["noted"].items()]
        for field, text in (
            ("missing_pictures", "pictures that are not there"),
            ("duplicate_ids", "ids that were there"),
        ):
            if told[field]:
                lines.append(f"  {text}: {told[field]:,}")
        for what, lengths in told["words"].items():
            lines.append(f"  words of an {what}: " + ", ".join(f"{name} {count}" for name, count in lengths.items()))
        lines += [f"  {example}" for example in told["examples"]]
    return "\n".join(lines)
