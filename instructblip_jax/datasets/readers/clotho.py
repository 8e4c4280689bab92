"""Reads Clotho and ClothoAQA: sounds of 15 to 30 seconds with five captions, and with questions.

clotho (v1, v2, v2.1): clotho_captions_{development,validation,evaluation}.csv with file_name and caption_1 ...
caption_5, whose splits are "train", "val" and "test". A file name is free text, and may have a blank before its
extension. Audio files are in a folder named after the split in the file name.

clotho_aqa: clotho_aqa_{train,val,test}.csv with file_name, QuestionText and answer, three rows per question, in any
order: one record has the three answers. The score is broken down by the groups "unanimous" and "divided", "yes or no"
and "one word", and by both.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip, Stream
from instructblip_jax.datasets.readers import captioned
from instructblip_jax.datasets.readers.captioned import Picture
from instructblip_jax.datasets.readers.csv_files import table
from instructblip_jax.datasets.readers.fields import (
    BadRow,
    SourceRow,
    answer_text,
    encodable,
    full_text,
    need,
    typed,
)
from instructblip_jax.datasets.readers.recordings import recording
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store

NAME, AQA = "clotho", "clotho_aqa"
FOLDERS = {"train": "development", "val": "validation", "test": "evaluation"}
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
YES_NO = ("yes", "no")


def _sound(where: Store, row: SourceRow, *folders: str) -> tuple[str, Media]:
    """File name and audio clip of a row. Nothing is stripped from the name."""
    file = encodable(typed(need(row, "file_name"), str, "file_name"))
    if not file.strip():
        raise BadRow("empty file_name")
    stem, dot, _ = file.rpartition(".")
    return file, recording(where, [stem if dot else file], folders)


def _captioned(path: Path, split: str, where: Store) -> Stream:
    def make(row: SourceRow) -> Iterator[Made]:
        file, media = _sound(where, row, FOLDERS[split], f"clotho_audio_{FOLDERS[split]}/{FOLDERS[split]}", "")
        picture: Picture = (file, media, {})
        yield from captioned.records(NAME, split, picture, [need(row, name) for name in CAPTIONS])

    return drafts(table(path), make)


def _asked(path: Path, split: str, where: Store) -> Stream:
    """The drafts of a file, which is read into memory, because a question's rows need not be adjacent."""
    groups: dict[tuple[str, str], tuple[str, Media, list[str]]] = {}
    held = 0
    for place, row in table(path):
        held += 1
        try:
            if isinstance(row, BadRow):
                raise row
            file, media = _sound(where, row, "audio_files", "audio", "")
            answer = answer_text(need(row, "answer")).lower()
            groups.setdefault((file, full_text(row, "QuestionText")), (place, media, []))[2].append(answer)
        except BadRow as bad:
            yield Skip(place, bad.reason, bad.detail)
    for number, ((file, question), (place, media, answers)) in enumerate(groups.items()):
        if not any(answers):
            yield Skip(place, "empty answer", question, len(answers))
            continue
        agreed = "unanimous" if len(set(answers)) == 1 else "divided"
        kind = "yes or no" if set(answers) <= set(YES_NO) else "one word"
        record = Record(
            uid=f"{AQA}/{split}/{number}",
            dataset=AQA,
            split=split,
            task="vqa",
            media=(),
            slots={"question": question},
            image_id=file,
            question_id=number,
            meta={"answer_type": [agreed, kind, f"{agreed}, {kind}"]},
            **answer_fields(answers),
        )
        yield Draft(place, record, (media,), rows=len(answers))
    return held


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "audio")
    splits: dict[str, Rows] = {}
    for split, folder in FOLDERS.items():
        if path := find(source, *places(f"clotho_captions_{folder}.csv")):
            splits[split] = partial(_captioned, path, split, where)
    return nonempty(splits, source, "clotho_captions_{development,validation,evaluation}.csv")


def _aqa_splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images)
    splits: dict[str, Rows] = {
        split: partial(_asked, path, split, where)
        for split in FOLDERS
        if (path := find(source, *places(f"clotho_aqa_{split}.csv")))
    }
    return nonempty(splits, source, "clotho_aqa_{train,val,test}.csv")


RELEASE = Release(_splits, {"val": 1_045, "test": 1_045})
"""Sizes of the training split differ: 5 captions of 2,893 clips in v1, of 3,839 since v2."""
QUESTIONS = Release(_aqa_splits)
