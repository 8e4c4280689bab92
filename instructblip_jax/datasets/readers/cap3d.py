"""Reads Cap3D, captions of Objaverse's objects, and questions generated from them.

Captions: Cap3D_automated_Objaverse*.csv, two columns without a header, <object uid> and <caption>, divided into splits
by the lists of uids in {training,validation}_set.pkl and test_uids*.pkl; without these all are "train". Or one file per
split, {train,val,test}.{json,csv}: rows {sample_id, data}, where data is a caption or a list, or an object of uid ->
captions. Point clouds: <uid>/<uid>_8192.npz, or <uid> with the extension of a point cloud.

cap3d_qa: cap3d_qa_SPLIT or SPLIT_qa, .csv or .json, rows with sample_id, question, answer and caption. Answers that
contain the word "model" are left out, as in X-InstructBLIP (arXiv 2311.18799).
"""

import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers import captioned, made_questions
from instructblip_jax.datasets.readers.captioned import Picture
from instructblip_jax.datasets.readers.csv_files import table
from instructblip_jax.datasets.readers.fields import SourceRow, full_text, need
from instructblip_jax.datasets.readers.json_files import Entry, elements, first_mark, members
from instructblip_jax.datasets.readers.recordings import cloud
from instructblip_jax.datasets.readers.source_rows import Made, OtherSplit, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store

NAME, QA = "cap3d", "cap3d_qa"
TABLE = "Cap3D_automated_Objaverse*.csv"
LISTS = {"train": "training_set*.pkl", "val": "validation_set*.pkl", "test": "test_uids*.pkl"}
FOLDERS = ("", "points", "pointclouds", "objaverse_pc_parallel", "Cap3D_pcs", "pc")


class _Plain(pickle.Unpickler):
    """Unpickles texts and lists, and refuses everything with a class."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds a {module_name}.{global_name}, and not only texts")


def uids(path: Path) -> set[str]:
    """The texts in a pickled list. Raises ValueError naming a file with any other content; none of its code is run."""
    try:
        found = _Plain(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: is no pickled list of texts: {error}") from error
    if not isinstance(found, (list, tuple, set)) or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{path}: is no pickled list of texts")
    return set(found)


def points(where: Store, uid: str) -> Media:
    """The point cloud of an object."""
    return cloud(where, [f"{uid}/{uid}_8192", f"{uid}_8192", uid], FOLDERS)


def _object(where: Store, row: SourceRow) -> Picture:
    uid = full_text(row, "sample_id")
    return uid, points(where, uid), {}


def _entries(path: Path) -> Iterator[Entry]:
    """The rows of a file in any of its forms."""
    if path.suffix == ".csv":
        return table(path)
    if first_mark(path) == "{":
        return ((place, {"sample_id": uid, "data": said}) for place, uid, said in members(path))
    return elements(path)


def _listed(path: Path, split: str, where: Store) -> Stream:
    return captioned.listing(_entries(path), NAME, split, partial(_object, where), "data")


def _whole(path: Path, split: str, lists: Mapping[str, Path], where: Store) -> Stream:
    own = uids(lists[split]) if split in lists else None

    def make(row: SourceRow) -> Iterator[Made]:
        picture = _object(where, row)
        if own is not None and picture[0] not in own:
            yield OtherSplit()
        else:
            yield from captioned.records(NAME, split, picture, [need(row, "data")])

    return drafts(table(path, ("sample_id", "data")), make)


def _asked(path: Path, split: str, where: Store) -> Stream:
    def shown(row: SourceRow) -> tuple[str, tuple[Media, ...]]:
        uid = full_text(row, "sample_id")
        return uid, (points(where, uid),)

    def empty(answer: str) -> bool:
        return "model" in answer

    return made_questions.rows(lambda: _entries(path), QA, split, shown, made_questions.SEEN, empty)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "../objaverse", "../cap3d")
    folder = source.parent if source.is_file() else source
    splits: dict[str, Rows] = {}
    for split in LISTS:
        if path := find(source, *places(f"{split}.json"), *places(f"{split}.csv")):
            splits[split] = partial(_listed, path, split, where)
    tables = [source] if source.is_file() and source.match(TABLE) else sorted(folder.glob(TABLE))
    if not splits and tables:
        lists = {split: found[0] for split, form in LISTS.items() if (found := sorted(folder.glob(form)))}
        splits = {split: partial(_whole, tables[0], split, lists, where) for split in lists or ["train"]}
    return nonempty(splits, source, TABLE, "{train,val,test}.{json,csv}")


def _qa_splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "../objaverse", "../cap3d")
    forms = [f"{form}.{kind}" for form in ("cap3d_qa_{}", "{}_qa") for kind in ("csv", "json")]
    splits: dict[str, Rows] = {}
    for split in ("train", "val"):
        if path := find(source, *(place for form in forms for place in places(form.format(split)))):
            splits[split] = partial(_asked, path, split, where)
    return nonempty(splits, source, *(form.format("{train,val}") for form in forms))


RELEASE = Release(_splits)
QUESTIONS = Release(_qa_splits)
