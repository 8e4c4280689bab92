"""Reads the image-caption sets for the pre-training of ALBEF, BLIP and BLIP-2.

Each is read from the first of its forms that is found: the lists published by ALBEF and LAVIS (rows {image, caption},
where the caption may be a list), tar shards or Parquet tables of img2dataset (CC3M, CC12M, SBU, LAION), tar shards of
LAVIS (LAION), or the official file. A row with several captions is one record, and training draws one of them at each
visit.

- coco_pretrain: coco.json, coco_karpathy_train.json, or train and restval of dataset_coco.json.
- vg_caption: vg.json, vg_caption.json, or region_descriptions.json, all of whose phrases count as captions; the lists
  are selections of these.
- sbu: sbu.json, or sbu-captions-all.json, an object of parallel lists.
- cc3m, cc12m: cc3m_train.json and cc3m_val.json, cc3m.json, cc12m.json, or the official tables of captions and
  URLs.
- laion: only shards or tables.

The images of official files with URLs are named like the last parts of the URLs.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, ident, need, text, typed
from instructblip_jax.datasets.readers.json_files import Entry, elements
from instructblip_jax.datasets.readers.source_rows import Made, OtherSplit, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, coco_picture, coco_store, store
from instructblip_jax.datasets.readers.web_pairs import from_addresses, listed, record, shards, shards_in, table
from instructblip_jax.datasets.readers.web_tables import tables, tables_in

COCO = ("train2014", "val2014")
VISUAL_GENOME = ("VG_100K", "VG_100K_2", "image")
"""Folders of Visual Genome's images, the last one as in LAVIS."""
WEB = ("images",)
Names = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Set -> split -> names of a file."""
TABLES: Names = {
    "cc3m": {
        "train": ("Train_GCC-training.tsv", "Train-GCC-training.tsv", "cc3m.tsv"),
        "val": ("Validation_GCC-1.1.0-Validation.tsv", "Validation-GCC-1.1.0-Validation.tsv"),
    },
    "cc12m": {"train": ("cc12m.tsv",)},
}
LISTS: Names = {
    "cc3m": {"train": ("cc3m_train.json", "cc3m.json"), "val": ("cc3m_val.json",)},
    "cc12m": {"train": ("cc12m.json",)},
    "sbu": {"train": ("sbu.json",)},
}
ADDRESSES = "sbu-captions-all.json"


def vg_picture(where: Store, image_id: int | str) -> Path:
    """The path of a Visual Genome image, given its number."""
    return where.find(*(f"{folder}/{image_id}.jpg" for folder in VISUAL_GENOME), f"{image_id}.jpg")


def vg_store(source: Path, images: Sequence[Path]) -> Store:
    """A store that finds Visual Genome's folders in the source, its images/, or next to it."""
    return store(source, images, "images", "..", "../images", "../vg")


def _first(source: Path, names: Sequence[str]) -> Path | None:
    """The first of the files that exists in the source, its lavis/ or annotations/."""
    return find(source, *itertools.chain.from_iterable(map(places, names)))


def _in_karpathy(path: Path, where: Store) -> Stream:
    return drafts(elements(path, "images"), partial(_karpathy, where))


def _karpathy(where: Store, row: SourceRow) -> Iterator[Made]:
    if need(row, "split") not in ("train", "restval"):
        yield OtherSplit()
        return
    image_id, folder = ident(row, "cocoid"), text(row, "filepath")
    sentences = typed(need(row, "sentences"), list, "sentences")
    said = [entry.get("raw") if isinstance(entry, dict) else None for entry in sentences]
    path = coco_picture(where, image_id, folder if folder in COCO else COCO[0])
    yield record("coco_pretrain", "train", str(image_id), str(image_id), said), (Media(path),)


def _coco(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = coco_store(source.parent if source.name == "annotations" and not images else source, images)
    names = ("coco.json", "coco_karpathy_train.json")
    rows: Rows | None = None
    if path := _first(source, names):
        rows = partial(listed, [path], "coco_pretrain", "train", where, COCO)
    elif path := _first(source, ("dataset_coco.json",)):
        rows = partial(_in_karpathy, path, where)
    return nonempty({"train": rows} if rows else {}, source, *names, "dataset_coco.json")


def _in_regions(path: Path, where: Store) -> Stream:
    return drafts(elements(path), partial(_regions, where))


def _regions(where: Store, row: SourceRow) -> Iterator[Made]:
    image_id, regions = ident(row, "id"), typed(need(row, "regions"), list, "regions")
    said = [region.get("phrase") if isinstance(region, dict) else None for region in regions]
    yield record("vg_caption", "train", str(image_id), str(image_id), said), (Media(vg_picture(where, image_id)),)


def _visual_genome(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = vg_store(source, images)
    names, official = ("vg.json", "vg_caption.json"), "region_descriptions.json"
    rows: Rows | None = None
    if path := _first(source, names):
        rows = partial(listed, [path], "vg_caption", "train", where, VISUAL_GENOME)
    elif path := _first(source, (official,)):
        rows = partial(_in_regions, path, where)
    return nonempty({"train": rows} if rows else {}, source, *names, official)


def _parallel(path: Path, where: Store) -> Stream:
    """The drafts of an object of parallel lists. Raises ValueError if these differ in length."""

    def entries() -> Iterator[Entry]:
        both = itertools.zip_longest(elements(path, "image_urls"), elements(path, "captions"))
        for number, (address, said) in enumerate(both):
            if address is None or said is None:
                raise ValueError(f"{path}: image_urls and captions differ in length; download the file again")
            broken = next((value for _, value in (address, said) if isinstance(value, BadRow)), None)
            yield address[0], broken or {"url": address[1], "caption": said[1], "number": number}

    return from_addresses(entries(), "sbu", "train", where)


def _web(name: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images", "..")
    splits: dict[str, Rows] = {}
    for split, names in LISTS.get(name, {}).items():
        if path := _first(source, names):
            splits[split] = partial(listed, [path], name, split, where, WEB)
    if not splits and shards_in(source):
        splits["train"] = partial(shards, source, name, "train")
    if not splits and tables_in(source):
        splits["train"] = partial(tables, source, name, "train")
    for split, names in TABLES.get(name, {}).items() if not splits else ():
        if path := find(source, *names):
            splits[split] = partial(table, path, name, split, where)
    if not splits and name == "sbu" and (path := find(source, ADDRESSES)):
        splits["train"] = partial(_parallel, path, where)
    wanted = [file for form in (LISTS, TABLES) for files in form.get(name, {}).values() for file in files]
    return nonempty(
        splits, source, *wanted, *([ADDRESSES] if name == "sbu" else []), "*.tar", "*.parquet with pictures"
    )


RELEASES: dict[str, Release] = {
    "coco_pretrain": Release(_coco),
    "vg_caption": Release(_visual_genome),
    "sbu": Release(partial(_web, "sbu")),
    "cc3m": Release(partial(_web, "cc3m")),
    "cc12m": Release(partial(_web, "cc12m")),
    "laion": Release(partial(_web, "laion")),
}
"""The number of records depends on the form: a list may have a row for each image or for each caption."""
