"""Reads COCO Caption, and the same images and captions for retrieval.

The files are Karpathy's dataset_coco.json (its train and restval make "train"), else LAVIS's
coco_karpathy_{train,val,test}.json, else the official captions_{train,val}2014.json or ...2017.json, whose val split
differs from Karpathy's. Retrieval is read from Karpathy's or LAVIS's, or ALBEF's coco_{train,val,test}.json.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.datasets.draft import Release, Rows
from instructblip_jax.datasets.readers import captioned
from instructblip_jax.datasets.readers.captioned import Picture
from instructblip_jax.datasets.readers.fields import SourceRow, extras, ident, text
from instructblip_jax.datasets.readers.source_rows import find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, coco_number, coco_picture, coco_store

NAME, RETRIEVAL = "coco_caption", "coco_retrieval"
PARTS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def _folder(name: str, otherwise: str = "train2014") -> str:
    """The COCO folder named in a path: COCO_val2014_000000000201.jpg -> val2014."""
    known = ("train2014", "val2014", "test2015", "train2017", "val2017", "test2017")
    return next((folder for folder in known if folder in name), otherwise)


def _karpathy(where: Store, row: SourceRow) -> Picture:
    image_id, folder = ident(row, "cocoid"), _folder(text(row, "filepath"))
    return image_id, coco_picture(where, image_id, folder), extras(row, "split", "imgid")


def listed_image(where: Store, row: SourceRow) -> tuple[int | str, Path]:
    """Id and path of the image of a row from LAVIS, which may have no image field other than ``image``."""
    image = text(row, "image")
    number = coco_number(image)
    if number is None:
        return image, where.find(image)
    where.find(image)  # raises for a path that leaves the roots
    return number, coco_picture(where, number, _folder(image))


def _listed(where: Store, row: SourceRow) -> Picture:
    return *listed_image(where, row), {}


def _official(where: Store, folder: str, row: SourceRow) -> Picture:
    image_id = ident(row, "id")
    return image_id, coco_picture(where, image_id, folder), extras(row, "width", "height", "license")


def _splits(name: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    base = source.parent if source.name == "annotations" and not images else source
    where = coco_store(base, images)
    if path := find(source, *places("dataset_coco.json")):
        return {
            split: partial(captioned.karpathy, path, name, split, parts, partial(_karpathy, where))
            for split, parts in PARTS.items()
        }
    splits: dict[str, Rows] = {}
    for split in PARTS:
        lists = places(f"coco_karpathy_{split}.json") + (places(f"coco_{split}.json") if name == RETRIEVAL else ())
        if path := find(source, *lists):
            splits[split] = partial(captioned.listed, path, name, split, partial(_listed, where))
    for year in ("2014", "2017") if not splits and name == NAME else ():
        for split in ("train", "val"):
            path = find(source, *places(f"captions_{split}{year}.json"))
            if path and split not in splits:
                picture: Callable[[SourceRow], Picture] = partial(_official, where, split + year)
                splits[split] = partial(captioned.coco_form, path, name, split, picture)
    other = "coco_{train,val,test}.json" if name == RETRIEVAL else "captions_{train,val}{2014,2017}.json"
    return nonempty(splits, source, "dataset_coco.json", "coco_karpathy_{train,val,test}.json", other)


SIZES = {"train": 566_747, "val": 5_000, "test": 5_000}
RELEASE, FOR_RETRIEVAL = (Release(partial(_splits, name), SIZES) for name in (NAME, RETRIEVAL))
