"""Reads instructions with answers and without images, one per JSON line.

- unnatural_instructions (arXiv 2212.09689): core_data.jsonl or full_data.jsonl, rows {instruction, instances: [{input,
  output, instruction_with_input}]}, in the full set with ``reformulations`` of the same form.
- flan_v2 (arXiv 2301.13688): *.jsonl, rows {inputs, targets} or {instruction, input, output}.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Release, Rows, Stream
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text, text, typed
from instructblip_jax.datasets.readers.json_files import Entry, json_lines
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty


def _splits(name: str, names: Sequence[str], source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    first = [path for path in (find(source, each) for each in names) if path][:1]
    every = [] if first or source.is_file() else sorted(source.glob("*.jsonl"))
    paths = first or ([source] if source.is_file() else every)
    rows: dict[str, Rows] = {"train": partial(_rows, name, paths)} if paths else {}
    return nonempty(rows, source, *names, "*.jsonl")


def _rows(name: str, paths: Sequence[Path]) -> Stream:
    def entries() -> Iterator[Entry]:
        for path in paths:
            for number, (where, row) in enumerate(json_lines(path)):
                yield where, {**row, "uid": f"{path.stem}:{number}"} if isinstance(row, Mapping) else row

    return drafts(entries(), partial(_make, name))


def _make(name: str, row: SourceRow) -> Iterator[Made]:
    several = [typed(row[field], list, field) for field in ("instances", "reformulations") if row.get(field)]
    if not several:
        yield _record(name, str(row["uid"]), row), ()
        return
    for number, instance in enumerate(each for instances in several for each in instances):
        try:
            whole = {**row, **typed(instance, dict, "instances")}
            yield _record(name, f"{row['uid']}#{number}", whole), ()
        except BadRow as bad:
            yield bad


def _record(name: str, uid: str, row: SourceRow) -> Record:
    """Raises BadRow."""
    if "inputs" in row:
        asked, said = full_text(row, "inputs"), full_text(row, "targets")
    else:
        asked, said = _asked(row), full_text(row, "output")
    return Record(f"{name}/train/{uid}", name, "train", "open", (), {"question": asked}, (said,))


def _asked(row: SourceRow) -> str:
    """The instruction with its input."""
    if row.get("instruction_with_input"):
        return full_text(row, "instruction_with_input")
    asked, given = full_text(row, "instruction"), text(row, "input") if row.get("input") else ""
    return f"{asked}\n{given}" if given else asked


RELEASES: dict[str, Release] = {
    "unnatural_instructions": Release(
        partial(_splits, "unnatural_instructions", ("core_data.jsonl", "full_data.jsonl"))
    ),
    "flan_v2": Release(partial(_splits, "flan_v2", ())),
}
