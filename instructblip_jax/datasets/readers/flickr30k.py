"""Reads Flickr30K, and the same images and captions for retrieval.

The files are Karpathy's dataset_flickr30k.json, else LAVIS's flickr30k_{train,val,test}.json, else
results_20130124.token, else Kaggle's results.csv. The last two name no splits: the CRC-32 of its file name assigns an
image to one of 31 parts of about 1,000 images; the first is "test" and the second "val". This is not Karpathy's split,
and scores on it are not comparable with published ones, so retrieval is not read from them.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.datasets.draft import Release, Rows, Skip, Stream
from instructblip_jax.datasets.readers import captioned
from instructblip_jax.datasets.readers.captioned import Picture
from instructblip_jax.datasets.readers.fields import SourceRow, extras, text
from instructblip_jax.datasets.readers.source_rows import drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.text_files import lines

NAME, RETRIEVAL = "flickr30k", "flickr30k_retrieval"
SPLITS = ("train", "val", "test")
_TOKEN = re.compile(r"(?P<name>[^\t]*?)#(?P<number>\d+)\t(?P<caption>.*)")
_PIPED = re.compile(r"(?P<name>[^|]*?)\s*\|\s*(?P<number>\d+)\s*(?:\|\s*)?(?P<caption>.*)")
"""Matches a line of results.csv. One line of the copy in circulation lacks its second bar."""


def _picture(where: Store, field: str, row: SourceRow) -> Picture:
    name = text(row, field)
    file = name.rsplit("/", 1)[-1]
    path = where.find(f"flickr30k-images/{file}", f"flickr30k_images/{file}", name, file)
    return file.rsplit(".", 1)[0], path, extras(row, "imgid")


def _part(file: str) -> str:
    return {0: "test", 1: "val"}.get(zlib.crc32(file.encode()) % 31, "train")


def _plain(path: Path, split: str, where: Store) -> Stream:
    """The drafts of the .token file or results.csv. Holds all captions in memory; broken lines count as "train"."""
    pattern = _TOKEN if path.suffix == ".token" else _PIPED
    captions: dict[str, tuple[str, list[str]]] = {}
    broken = 0
    for number, line in lines(path):
        if not line.strip() or (number == 1 and line.startswith("image_name")):
            continue
        found = pattern.fullmatch(line)
        if found is None:
            if split == "train":
                broken += 1
                yield Skip(f"{path}:{number}", "broken line", line[:80])
        elif _part(found["name"]) == split:
            captions.setdefault(found["name"], (f"{path}:{number}", []))[1].append(found["caption"])

    def make(row: SourceRow) -> Iterator[captioned.Made]:
        yield from captioned.records(NAME, split, _picture(where, "name", row), row["captions"])

    entries = ((place, {"name": name, "captions": texts}) for name, (place, texts) in captions.items())
    return broken + (yield from drafts(entries, make, lambda row: len(row["captions"])))


def _splits(name: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "flickr30k-images", "flickr30k_images", "images", "..", "../images")
    if path := find(source, *places("dataset_flickr30k.json")):
        picture = partial(_picture, where, "filename")
        return {split: partial(captioned.karpathy, path, name, split, (split,), picture) for split in SPLITS}
    splits: dict[str, Rows] = {}
    for split in SPLITS:
        if path := find(source, *places(f"flickr30k_{split}.json")):
            splits[split] = partial(captioned.listed, path, name, split, partial(_picture, where, "image"))
    if not splits and name == NAME and (path := find(source, "results_20130124.token", "results.csv")):
        splits = {split: partial(_plain, path, split, where) for split in SPLITS}
    wanted = ("dataset_flickr30k.json", "flickr30k_{train,val,test}.json")
    return nonempty(splits, source, *wanted, *(("results_20130124.token", "results.csv") if name == NAME else ()))


SIZES = {"train": 145_000, "val": 1_014, "test": 1_000}
RELEASE, FOR_RETRIEVAL = (Release(partial(_splits, name), SIZES) for name in (NAME, RETRIEVAL))
