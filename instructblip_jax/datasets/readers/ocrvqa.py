"""OCR-VQA: dataset.json, an object of book covers with several questions each; ``split`` 1, 2, 3 is train, val, test.

Pictures: images/<id> with the ending of imageURL, or under the last part of imageURL. The release has no words read in
them; where a mirror adds ``ocr_tokens`` to its rows, they fill the slot ``ocr``.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers import rosetta
from instructblip_jax.datasets.readers.fields import Bad, Row, answer_text, clean, need, text, told, typed
from instructblip_jax.datasets.readers.json_files import members
from instructblip_jax.datasets.readers.rows import Elsewhere, Made, drafts, find, judged, keyed, places, some
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "ocrvqa"
SPLITS = {"train": 1, "val": 2, "test": 3}


def _picture(where: Store, key: str, row: Row) -> Path:
    try:
        last = PurePosixPath(urlsplit(text(row, "imageURL")).path if "imageURL" in row else "")
    except ValueError as error:  # no address at all
        raise Bad("wrong type", f"imageURL: {error}") from error
    names = [key + ending for ending in dict.fromkeys((last.suffix or ".jpg", ".jpg", ".png", ".gif", ".jpeg"))]
    names += [last.name] if last.name else []
    return where.find(*(f"images/{name}" for name in names), *names)


def _cover(where: Store, split: str, row: Row) -> Iterator[Made]:
    own = typed(need(row, "split"), int, "split")
    if own not in SPLITS.values() and split == "train":  # told once
        raise Bad("unknown split", str(own)[:40])
    if own != SPLITS[split]:
        yield Elsewhere()
        return
    key, words = clean(row["id"]), rosetta.tokens(row)
    if not key:
        raise Bad("wrong type", "an empty id")
    media = (Media(_picture(where, key, row)),)
    questions = typed(need(row, "questions"), list, "questions")
    answers = typed(need(row, "answers"), list, "answers")
    if len(questions) != len(answers):
        raise Bad("questions and answers differ in number", f"{len(questions)} and {len(answers)}")
    meta = told(row, "title", "authorName", "genre") | ({"ocr": list(words)} if words else {})
    for number, (asked, given) in enumerate(zip(questions, answers, strict=True)):
        try:
            question = clean(typed(asked, str, "question"))
            if not question:
                raise Bad("empty question")
            slots = {"question": question, "ocr": rosetta.shown(words)}
            fields = judged((answer_text(given),))
        except Bad as bad:
            yield bad
            continue
        uid = f"{NAME}/{split}/{key}#{number}"
        yield Record(uid, NAME, split, "vqa", (), slots, image_id=key, meta=meta, **fields), media


def _rows(path: Path, split: str, where: Store) -> Iterator[Draft | Skip]:
    return drafts(keyed(members(path), "id"), partial(_cover, where, split))


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "..")
    path = find(source, *places("dataset.json"))
    return some({split: partial(_rows, path, split, where) for split in SPLITS} if path else {}, source, "dataset.json")


RELEASE = Release(_splits)
