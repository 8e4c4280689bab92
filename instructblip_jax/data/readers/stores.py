"""Where pictures lie: folders under one or more roots.

A name from an annotation file never leaves the roots (lexically: a folder that is itself a link is the user's wish).
A picture that is nowhere gets its official path, so that whoever opens it can say what is missing.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from instructblip_jax.data.readers.fields import Bad


@lru_cache(maxsize=64)
def _folded(folder: str) -> dict[str, str]:
    """Case-folded NFC name -> name, of what is in a folder; of two names that fold alike the first by code point."""
    try:
        return {
            unicodedata.normalize("NFC", name).casefold(): name for name in sorted(os.listdir(folder), reverse=True)
        }
    except OSError:
        return {}


def _fold(root: str, name: str) -> str | None:
    """The path under ``root`` whose parts are those of ``name`` but for case and Unicode form."""
    at = root
    for part in name.split("/"):
        exact = os.path.join(at, part)
        if not os.path.lexists(exact):
            found = _folded(at).get(unicodedata.normalize("NFC", part).casefold())
            if found is None:
                return None
            exact = os.path.join(at, found)
        at = exact
    return at


class Store:
    """Pictures or videos under ``roots``."""

    def __init__(self, roots: Sequence[Path]):
        self.roots = [os.path.normpath(root) for root in roots]

    def _inside(self, name: str) -> str:
        """``name`` as a relative path within a root. Raises Bad."""
        if os.path.isabs(name):
            plain = os.path.normpath(name)
            for root in map(os.path.abspath, self.roots):
                if plain.startswith(root.rstrip(os.sep) + os.sep):
                    return os.path.relpath(plain, root)
            raise Bad("path outside the image root", name)
        plain = os.path.normpath(name.replace("\\", "/"))
        if not name or plain in (".", "..") or plain.startswith("../") or "\0" in name or plain[1:2] == ":":
            raise Bad("path outside the image root", name)
        return plain

    def find(self, *names: str, folder: bool = False) -> Path:
        """The first of ``names`` that is under a root, else where the first should be. Raises Bad for one outside.

        ``folder``: folders (of frames) count, too.
        """
        there = os.path.exists if folder else os.path.isfile
        inside = list(dict.fromkeys(map(self._inside, names)))
        for name in inside:
            for root in self.roots:
                if there(path := os.path.join(root, name)):
                    return Path(path)
        for name in inside:
            for root in self.roots:
                if (near := _fold(root, name)) is not None and there(near):
                    return Path(near)
        return Path(self.roots[0], inside[0])


def store(source: Path, images: Sequence[Path], *defaults: str) -> Store:
    """The store of the roots ``images``, or where there are none of those ``defaults`` (relative to the source's
    folder, which comes first) that are folders."""
    if images:
        return Store(images)
    base = source.parent if source.is_file() else source
    return Store([base, *(root for name in defaults if (root := base / name).is_dir())])


_COCO = ("images", "coco", "..", "../coco", "../images")


def coco_store(source: Path, images: Sequence[Path]) -> Store:
    """COCO's folders: in the source itself, its images/ or coco/, beside it, or in ../coco or ../images."""
    return store(source, images, *_COCO)


def coco_file(number: int, folder: str) -> str:
    """The official path of a COCO picture: 101, "train2014" -> "train2014/COCO_train2014_000000000101.jpg"."""
    return f"{folder}/{number:012d}.jpg" if folder.endswith("2017") else f"{folder}/COCO_{folder}_{number:012d}.jpg"


_FOLDERS = ("train2017", "val2017", "test2017", "train2014", "val2014", "test2015")


@lru_cache(maxsize=16)
def _coco_patterns(folder: str) -> tuple[tuple[str, bool], ...]:
    paths = [(name, True) for name in dict.fromkeys((folder, *_FOLDERS))]
    return tuple(paths + [(name, False) for name in dict.fromkeys((folder, *_FOLDERS[2:]))])


def coco_picture(where: Store, image_id: int | str, folder: str) -> Path:
    """A COCO picture by its number: its official path in ``folder``, else that of the 2017, then the 2014 and 2015
    folders (a number is the same picture in each), else in a flat folder. Raises Bad for an id that is no number."""
    if isinstance(image_id, str) and not (image_id.isascii() and image_id.isdigit()):
        raise Bad("wrong type", f"image_id: {image_id!r} is no COCO number")
    if not 0 <= (number := int(image_id)) < 10**12:
        raise Bad("wrong type", f"image_id: {image_id!r} is no COCO number")
    files = ((coco_file(number, name), deep) for name, deep in _coco_patterns(folder))
    return where.find(*(file if deep else file.split("/")[1] for file, deep in files))


def coco_number(name: str) -> int | None:
    """The number in the name of a COCO picture, None where there is none."""
    digits = name.rsplit("/", 1)[-1].split(".")[0].rsplit("_", 1)[-1]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 12 else None
