"""Reads AudioSet's labels: {balanced_train,unbalanced_train,eval}_segments.csv and class_labels_indices.csv.

A training record's answers are sentences about each label, "this is the sound of a dog"; a visit draws one of them, as
in X-InstructBLIP (arXiv 2311.18799). The answers of eval segments are the labels. Audio files: <id>_<start>-<end>.wav,
with one decimal, or any name of AudioCaps' clips.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Release, Rows, Stream
from instructblip_jax.datasets.readers.audiocaps import names_of, seconds
from instructblip_jax.datasets.readers.csv_files import table
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text, need
from instructblip_jax.datasets.readers.recordings import recording
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty, training
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "audioset"
FILES = {"train": "balanced_train", "train_unbalanced": "unbalanced_train", "test": "eval"}
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
LEADS = ("", "this is ", "it is ", "i hear ", "the audio is ", "this is the sound of ")


def said(label: str) -> tuple[str, ...]:
    """The sentences about a label: with each of `LEADS`, in lower case, with the article for its first letter."""
    name = label.lower().strip()
    article = "an" if name[:1] in tuple("aeiou") else "a"
    return tuple(f"{lead}{article} {name}" for lead in LEADS)


def _labels(path: Path) -> dict[str, str]:
    """mid -> name. Raises ValueError naming a file without these columns."""
    found = {row.get("mid"): row.get("display_name") for _, row in table(path) if isinstance(row, dict)}
    if not found or None in found or None in found.values():
        raise ValueError(f"{path}: has no columns mid and display_name")
    return found  # type: ignore[return-value]  # None was looked for


def _rows(path: Path, split: str, names: Path, where: Store) -> Stream:
    known = _labels(names)

    def make(row: SourceRow) -> Iterator[Made]:
        own, (start, end) = full_text(row, "YTID"), (seconds(need(row, name), name) for name in COLUMNS[1:3])
        mids = [mid.strip() for mid in full_text(row, "positive_labels").split(",")]
        if unknown := [mid for mid in mids if mid not in known]:
            raise BadRow("unknown label", unknown[0])
        labels = tuple(known[mid] for mid in mids)
        stems = [f"{own}_{start:.1f}-{end:.1f}", *names_of(own, start)]
        folders = [FILES[split], split, f"{FILES[split]}_segments", "audio", ""]
        record = Record(
            uid=f"{NAME}/{split}/{own}_{start:g}",
            dataset=NAME,
            split=split,
            task="open",
            media=(),
            slots={},
            answers=tuple(text for label in labels for text in said(label)) if training(split) else labels,
            references=labels,
            image_id=f"{own}_{start:g}",
            meta={"start": start, "end": end},
        )
        yield record, (recording(where, stems, folders, start, end),)

    return drafts(table(path, COLUMNS, comment="#", spaced=True), make)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    folder = source.parent if source.is_file() else source
    names = find(folder, "class_labels_indices.csv")
    splits: dict[str, Rows] = {
        split: partial(_rows, path, split, names, where)
        for split, file in FILES.items()
        if names and (path := find(source, f"{file}_segments.csv"))
    }
    wanted = ("class_labels_indices.csv", "{balanced_train,unbalanced_train,eval}_segments.csv")
    return nonempty(splits, source, *wanted)


RELEASE = Release(_splits, {"train": 22_160, "test": 20_371})
