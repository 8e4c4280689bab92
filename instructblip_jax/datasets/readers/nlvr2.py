"""Reads NLVR2: a statement about two images, left and right, that is true or false.

The files are train.json, dev.json, test1.json and test2.json with one JSON object per line, or ALBEF's and LAVIS's
lists nlvr_{train,dev,test}.json, rows {images: [left, right], sentence, label}, the last of which is test1. Images: in
images/train/<directory>, dev, test1 and test2, or where a list says.

``meta["group"]`` is the same for all image pairs of a sentence: consistency counts the groups in which every pair is
right.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, extras, full_text, need, typed
from instructblip_jax.datasets.readers.json_files import elements, json_lines
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, numbered, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.web_pairs import find_picture

NAME = "nlvr2"
CLASSES = ("False", "True")
"""The candidates; ``label`` is the index of the right one."""
LISTS = {"train": "nlvr_train.json", "dev": "nlvr_dev.json", "test1": "nlvr_test.json"}
SPLITS = (*LISTS, "test2")
_IDENTIFIER = re.compile(r"(?P<split>\w+)-(?P<set>\d+)-(?P<pair>\d+)-(?P<sentence>\d+)")
_FILE = re.compile(r"(?P<split>\w+)-(?P<set>\d+)-(?P<pair>\d+)-img[01]")
FOLDERS = tuple(f"{above}{split}" for split in SPLITS for above in ("", "images/"))


def _label(row: SourceRow) -> int:
    """0 for false, 1 for true; files hold the word or the boolean."""
    label = need(row, "label")
    said = str(label).strip().capitalize() if isinstance(label, (str, bool)) else ""
    if said not in CLASSES:
        raise BadRow("label outside the candidates", f"label: {str(label)[:40]}")
    return CLASSES.index(said)


def _record(split: str, row: SourceRow, uid: str, group: str, image_id: str) -> Record:
    label = _label(row)
    return Record(
        uid=f"{NAME}/{split}/{uid}",
        dataset=NAME,
        split=split,
        task="choice",
        media=(),
        slots={"sentence": full_text(row, "sentence")},
        candidates=CLASSES,
        label=label,
        image_id=image_id,
        question_id=uid,
        meta={"group": group, **extras(row, "synset", "query", "writer")},
        **answer_fields((CLASSES[label],)),
    )


def _official(split: str, where: Store, row: SourceRow) -> Iterator[Made]:
    identifier = full_text(row, "identifier")
    found = _IDENTIFIER.fullmatch(identifier)
    if found is None:
        raise BadRow("wrong type", f"identifier: {identifier[:60]!r} is not SPLIT-SET-PAIR-SENTENCE")
    pair = f"{found['split']}-{found['set']}-{found['pair']}"
    folders = [split, f"images/{split}"]
    if directory := extras(row, "directory").get("directory"):
        folders = [f"{folder}/{directory}" for folder in folders] + folders
    media = tuple(Media(_picture(where, f"{pair}-img{side}.png", folders)) for side in (0, 1))
    group = f"{found['split']}-{found['set']}-{found['sentence']}"
    yield _record(split, row, identifier, group, pair), media


def _picture(where: Store, file: str, folders: Sequence[str]) -> Path:
    return where.find(*(f"{folder}/{file}" for folder in folders), file)


def _of_list(split: str, where: Store, row: SourceRow) -> Iterator[Made]:
    images = [full_text({"image": image}, "image") for image in typed(need(row, "images"), list, "images")]
    if len(images) != 2:
        raise BadRow("not two pictures", f"{len(images)}")
    found = _FILE.match(images[0].rsplit("/", 1)[-1])
    of = f"{found['split']}-{found['set']}" if found else images[0]
    media = tuple(Media(find_picture(where, image, FOLDERS)) for image in images)
    group, pair = f"{of}-{full_text(row, 'sentence')}", images[0].rsplit("/", 1)[-1].split("-img")[0]
    yield _record(split, row, str(row["number"]), group, pair), media


def _lines(path: Path, split: str, where: Store) -> Stream:
    return drafts(json_lines(path), partial(_official, split, where))


def _listed(path: Path, split: str, where: Store) -> Stream:
    return drafts(numbered(elements(path)), partial(_of_list, split, where))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images", "..", "../images")
    splits: dict[str, Rows] = {}
    for split in SPLITS:
        if path := find(source, f"{split}.json", f"data/{split}.json", f"nlvr2/data/{split}.json"):
            splits[split] = partial(_lines, path, split, where)
        elif split in LISTS and (path := find(source, *places(LISTS[split]))):
            splits[split] = partial(_listed, path, split, where)
    return nonempty(splits, source, "{train,dev,test1,test2}.json", "nlvr_{train,dev,test}.json")


RELEASE = Release(_splits, {"train": 86_373, "dev": 6_982, "test1": 6_967})
