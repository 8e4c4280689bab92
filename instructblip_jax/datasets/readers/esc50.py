"""Reads ESC-50: meta/esc50.csv with filename, fold, target and category, and audio/. All 2,000 clips are the split
"test"; the scores of its five folds are broken down as domains."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.datasets.draft import Release, Rows, Stream
from instructblip_jax.datasets.readers import classes
from instructblip_jax.datasets.readers.csv_files import table
from instructblip_jax.datasets.readers.fields import SourceRow, full_text
from instructblip_jax.datasets.readers.recordings import recording
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "esc50"


def _rows(path: Path, where: Store) -> Stream:
    found = {row["category"] for _, row in table(path) if isinstance(row, dict) and row.get("category")}
    names = sorted(found)

    def make(row: SourceRow) -> Iterator[Made]:
        file = full_text(row, "filename")
        meta = {"domain": f"fold {full_text(row, 'fold')}"}
        record = classes.record(NAME, "test", file, full_text(row, "category"), names, meta)
        yield record, (recording(where, [file.rpartition(".")[0]], ["audio", ""]),)

    return drafts(table(path), make)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    path = find(source, "meta/esc50.csv", "esc50.csv")
    where = store(source, images, "..")
    return nonempty({"test": partial(_rows, path, where)} if path else {}, source, "meta/esc50.csv")


RELEASE = Release(_splits, {"test": 2_000})
