"""Reads ModelNet40: modelnet40_shape_names.txt, modelnet40_{train,test}.txt and CLASS/SHAPE.txt, 10,000 lines of
x,y,z,nx,ny,nz; or the original meshes, CLASS/{train,test}/SHAPE.off, on whose surfaces points are sampled.

The pickled .dat files in circulation are not read, because unpickling can run code.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import POINTS
from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers import classes
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow
from instructblip_jax.datasets.readers.json_files import Entry
from instructblip_jax.datasets.readers.recordings import cloud
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.text_files import lines

NAME = "modelnet40"
SPLITS = ("train", "test")


def _shapes(path: Path) -> Iterator[Entry]:
    for number, line in lines(path):
        if line.strip():
            yield f"{path}:{number}", {"shape": line.strip()}


def _listed(path: Path, split: str, names: Path, where: Store) -> Stream:
    known = [line.strip() for _, line in lines(names) if line.strip()]

    def make(row: SourceRow) -> Iterator[Made]:
        shape = row["shape"]
        own, sign, number = shape.rpartition("_")
        if not sign or not number.isdecimal():
            raise BadRow("not CLASS_NUMBER", shape[:60])
        yield classes.record(NAME, split, shape, own, known), (cloud(where, [shape], [own, ""]),)

    return drafts(_shapes(path), make)


def _meshes(source: Path, split: str) -> Stream:
    paths = sorted(source.glob(f"*/{split}/*.off"))
    known = sorted({path.parent.parent.name for path in source.glob("*/*/*.off")})

    def make(row: SourceRow) -> Iterator[Made]:
        path = row["path"]
        record = classes.record(NAME, split, path.stem, path.parent.parent.name, known)
        yield record, (Media(path, kind=POINTS),)

    return drafts(((str(path), {"path": path}) for path in paths), make)


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "modelnet40_normal_resampled")
    folder = source.parent if source.is_file() else source
    names = find(folder, "modelnet40_shape_names.txt", "modelnet40_normal_resampled/modelnet40_shape_names.txt")
    splits: dict[str, Rows] = {}
    for split in SPLITS:
        file = f"modelnet40_{split}.txt"
        if names and (path := find(source, file, f"modelnet40_normal_resampled/{file}")):
            splits[split] = partial(_listed, path, split, names, where)
        elif source.is_dir() and next(source.glob(f"*/{split}/*.off"), None):
            splits[split] = partial(_meshes, source, split)
    wanted = ("modelnet40_shape_names.txt with modelnet40_{train,test}.txt", "*/{train,test}/*.off")
    return nonempty(splits, source, *wanted)


RELEASE = Release(_splits, {"train": 9_843, "test": 2_468})
