"""Finds images in folders under one or more roots.

A name from an annotation file never leaves the roots. The check is lexical: a folder that is itself a link is the
user's choice. An image that is not found gets its official path, so that opening it names the missing file.
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from instructblip_jax.datasets.readers.fields import BadRow


@lru_cache(maxsize=64)
def _folded(folder: str) -> dict[str, str]:
    """Case-folded NFC name -> name, for each entry of a folder; of names that fold alike, the first by code point."""
    try:
        return {
            unicodedata.normalize("NFC", name).casefold(): name for name in sorted(os.listdir(folder), reverse=True)
        }
    except OSError:
        return {}


def _part(folder: str, name: str) -> str | None:
    """The path of the entry of ``folder`` with this name, ignoring case and Unicode form; None if there is none."""
    exact = os.path.join(folder, name)
    if os.path.lexists(exact):
        return exact
    found = _folded(folder).get(unicodedata.normalize("NFC", name).casefold())
    return None if found is None else os.path.join(folder, found)


_PLAIN = re.compile(r"[\w-]+(/[\w-]+)*(\.\w+)?")
"""Names that cannot leave a root: their only dot is that of the extension."""


class Store:
    """Images or videos under ``roots``."""

    def __init__(self, roots: Sequence[Path]):
        self.roots = [os.path.normpath(root) for root in roots]
        self._folders: dict[tuple[str, str], str | None] = {}  # cached: most lookups are in a few folders or in none

    def _folder(self, root: str, name: str) -> str | None:
        """The folder ``name`` of a root, ignoring case and Unicode form; None if there is none."""
        if (root, name) not in self._folders:
            at: str | None = root
            for part in filter(None, name.split("/")):
                at = at and _part(at, part)
            self._folders[root, name] = at if at and os.path.isdir(at) else None
        return self._folders[root, name]

    def places(self, folder: str) -> list[str]:
        """The paths of ``folder`` under each root that has it. Raises BadRow if it leaves the roots."""
        inside = self._inside(folder) if folder else ""
        return [at for root in self.roots if (at := self._folder(root, inside))]

    def _inside(self, name: str) -> str:
        """``name`` as a path relative to a root. Raises BadRow if it leaves the roots."""
        if _PLAIN.fullmatch(name):
            return name
        if os.path.isabs(name):
            plain = os.path.normpath(name)
            for root in map(os.path.abspath, self.roots):
                if plain.startswith(root.rstrip(os.sep) + os.sep):
                    return os.path.relpath(plain, root)
            raise BadRow("path outside the image root", name)
        plain = os.path.normpath(name.replace("\\", "/"))
        if not name or plain in (".", "..") or plain.startswith("../") or "\0" in name or plain[1:2] == ":":
            raise BadRow("path outside the image root", name)
        return plain

    def find(self, *names: str, folder: bool = False) -> Path:
        """The first of ``names`` that exists under a root, else the expected path of the first name.

        Args:
          folder: accept folders (of frames) as well as files.

        Raises:
          BadRow: a name leads outside the roots.
        """
        there = os.path.exists if folder else os.path.isfile
        inside = list(dict.fromkeys(map(self._inside, names)))
        split = [name.rpartition("/")[::2] for name in inside]
        near = [(at, file) for above, file in split for root in self.roots if (at := self._folder(root, above))]
        for at, file in near:
            if there(path := os.path.join(at, file)):
                return Path(path)
        for at, file in near:
            if (found := _part(at, file)) and there(found):
                return Path(found)
        return Path(self.roots[0], inside[0])


def store(source: Path, images: Sequence[Path], *defaults: str) -> Store:
    """A store with the roots ``images``. If there are none, its roots are the source's folder and those of the
    ``defaults`` (relative to it) that exist."""
    if images:
        return Store(images)
    base = source.parent if source.is_file() else source
    return Store([base, *(root for name in defaults if (root := base / name).is_dir())])


_COCO = ("images", "coco", "..", "../coco", "../images")


def coco_store(source: Path, images: Sequence[Path]) -> Store:
    """A store that finds COCO's folders in the source, its images/ or coco/, next to it, or in ../coco or ../images."""
    return store(source, images, *_COCO)


def coco_file(number: int, folder: str) -> str:
    """The official path of a COCO image: 101, "train2014" -> "train2014/COCO_train2014_000000000101.jpg"."""
    return f"{folder}/{number:012d}.jpg" if folder.endswith("2017") else f"{folder}/COCO_{folder}_{number:012d}.jpg"


_FOLDERS = ("train2017", "val2017", "test2017", "train2014", "val2014", "test2015")


@lru_cache(maxsize=16)
def _coco_patterns(folder: str) -> tuple[tuple[str, bool], ...]:
    paths = [(name, True) for name in dict.fromkeys((folder, *_FOLDERS))]
    return tuple(paths + [(name, False) for name in dict.fromkeys((folder, *_FOLDERS[2:]))])


def coco_picture(where: Store, image_id: int | str, folder: str) -> Path:
    """The path of a COCO image, given its number.

    The search covers ``folder``, the 2017 folders, the 2014 and 2015 folders (a number is the same image in all of
    them), and finally a flat folder. Raises BadRow if the id is not a COCO number.
    """
    if isinstance(image_id, str) and not (image_id.isascii() and image_id.isdigit()):
        raise BadRow("wrong type", f"image_id: {image_id!r} is not a COCO number")
    if not 0 <= (number := int(image_id)) < 10**12:
        raise BadRow("wrong type", f"image_id: {image_id!r} is not a COCO number")
    files = ((coco_file(number, name), deep) for name, deep in _coco_patterns(folder))
    return where.find(*(file if deep else file.split("/")[1] for file, deep in files))


def coco_number(name: str) -> int | None:
    """The number in the file name of a COCO image; None if it has none."""
    digits = name.rsplit("/", 1)[-1].split(".")[0].rsplit("_", 1)[-1]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 12 else None
