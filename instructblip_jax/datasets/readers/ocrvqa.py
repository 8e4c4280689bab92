"""Reads OCR-VQA: dataset.json, an object of book covers with several questions each; ``split`` 1, 2, 3 is train, val,
test.

Images: images/<id> with the extension of imageURL, or the last part of imageURL. The release has no OCR words; if a
mirror adds ``ocr_tokens`` to its rows, they fill the slot ``ocr``.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers import rosetta
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, answer_text, clean, extras, need, text, typed
from instructblip_jax.datasets.readers.json_files import members
from instructblip_jax.datasets.readers.source_rows import (
    Made,
    OtherSplit,
    answer_fields,
    drafts,
    find,
    keyed,
    nonempty,
    places,
)
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "ocrvqa"
SPLITS = {"train": 1, "val": 2, "test": 3}


def _picture(where: Store, key: str, row: SourceRow) -> Path:
    try:
        last = PurePosixPath(urlsplit(text(row, "imageURL")).path if "imageURL" in row else "")
    except ValueError as error:  # not a URL
        raise BadRow("wrong type", f"imageURL: {error}") from error
    names = [key + ending for ending in dict.fromkeys((last.suffix or ".jpg", ".jpg", ".png", ".gif", ".jpeg"))]
    names += [last.name] if last.name else []
    return where.find(*(f"images/{name}" for name in names), *names)


def _cover(where: Store, split: str, row: SourceRow) -> Iterator[Made]:
    own = typed(need(row, "split"), int, "split")
    if own not in SPLITS.values() and split == "train":  # reported once, not for every split
        raise BadRow("unknown split", str(own)[:40])
    if own != SPLITS[split]:
        yield OtherSplit()
        return
    key, words = clean(row["id"]), rosetta.tokens(row)
    if not key:
        raise BadRow("wrong type", "an empty id")
    media = (Media(_picture(where, key, row)),)
    questions = typed(need(row, "questions"), list, "questions")
    answers = typed(need(row, "answers"), list, "answers")
    if len(questions) != len(answers):
        raise BadRow("questions and answers differ in number", f"{len(questions)} and {len(answers)}")
    meta = extras(row, "title", "authorName", "genre") | ({"ocr": list(words)} if words else {})
    for number, (asked, given) in enumerate(zip(questions, answers, strict=True)):
        try:
            question = clean(typed(asked, str, "question"))
            if not question:
                raise BadRow("empty question")
            slots = {"question": question, "ocr": rosetta.shown(words)}
            fields = answer_fields((answer_text(given),))
        except BadRow as bad:
            yield bad
            continue
        uid = f"{NAME}/{split}/{key}#{number}"
        yield Record(uid, NAME, split, "vqa", (), slots, image_id=key, meta=meta, **fields), media


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    return drafts(keyed(members(path), "id"), partial(_cover, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    path = find(source, *places("dataset.json"))
    return nonempty(
        {split: partial(_rows, path, split, where) for split in SPLITS} if path else {}, source, "dataset.json"
    )


RELEASE = Release(_splits)
