"""Reads NoCaps: nocaps_val_4500_captions.json (ten references per image) and nocaps_test_image_info.json (none).

If the first is missing, LAVIS's nocaps_val.json is read. Images: Open Images validation/ (or val/) and test/.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers import captioned
from instructblip_jax.datasets.readers.fields import SourceRow, extras, ident, text
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store

NAME = "nocaps"


def _picture(
    where: Store, folders: Sequence[str], field: str, key: str, row: SourceRow
) -> tuple[int | str, Path, dict[str, Any]]:
    name = text(row, field)
    file = name.rsplit("/", 1)[-1]
    path = where.find(*(f"{folder}/{file}" for folder in folders), name, file)
    return ident(row, key), path, extras(row, "domain", "open_images_id")


_VAL = ("validation", "val")


def _test(path: Path, where: Store) -> Iterator[Draft | Skip]:
    def make(row: SourceRow) -> Iterator[Made]:
        image_id, picture, meta = _picture(where, ("test",), "file_name", "id", row)
        uid = f"{NAME}/test/{image_id}"
        yield Record(uid, NAME, "test", "caption", (), {}, (), image_id=image_id, meta=meta), (Media(picture),)

    return drafts(elements(path, "images"), make)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images", "..")
    splits: dict[str, Rows] = {}
    if path := find(source, *places("nocaps_val_4500_captions.json")):
        picture = partial(_picture, where, _VAL, "file_name", "id")
        splits["val"] = partial(captioned.coco_form, path, NAME, "val", picture)
    elif path := find(source, *places("nocaps_val.json")):
        picture = partial(_picture, where, _VAL, "image", "img_id")
        splits["val"] = partial(captioned.listed, path, NAME, "val", picture)
    if path := find(source, *places("nocaps_test_image_info.json")):
        splits["test"] = partial(_test, path, where)
    wanted = ("nocaps_val_4500_captions.json", "nocaps_val.json", "nocaps_test_image_info.json")
    return nonempty(splits, source, *wanted)


RELEASE = Release(_splits, {"val": 4_500, "test": 10_600})
