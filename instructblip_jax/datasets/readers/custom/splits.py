"""Assigns rows to splits: by the row's own field, by the name of its file or folder, or by a random draw."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.fields import BadRow

SPLITS = ("train", "validation", "test")
_FULL = {"train": "train", "val": "validation", "dev": "validation", "test": "test"}
_WORD = re.compile(r"(?:^|[^a-z])(train|val|dev|test)(?:ing|id|idation)?(?![a-z])")
_FOLDER = re.compile(r"(train|val|dev|test)(?:ing|id|idation)?[-_]?\d*")
SEED = b"instructblip_jax"


def of_name(path: Path) -> str | None:
    """The split that a file's name contains: train*, val* or test*, or one of these as a word; else its folder's."""
    stem = path.name.lower()
    found = re.match("(train|val|test)", stem) or _WORD.search(stem)
    return _FULL[found[1]] if found else of_folder(path.parent.name)


def of_folder(name: str) -> str | None:
    """The split of a folder whose whole name is that of a split; None for other names."""
    found = _FOLDER.fullmatch(name.lower())
    return _FULL[found[1]] if found else None


def of_field(value: str) -> str:
    """The split named by a row's field. Raises BadRow if the value names no split."""
    found = re.match("(train|val|dev|test)", value.lower())
    if not found:
        raise BadRow("unknown split", f"{value[:40]!r}; must be {', '.join(SPLITS)}")
    return _FULL[found[1]]


def key(media: Media) -> str:
    """A short key that is equal for equal images: the SHA-256 of the bytes, or path and offset."""
    if media.data is not None:
        return hashlib.sha256(media.data).hexdigest()
    return f"{media.path.resolve() if media.path else ''}:{media.offset}"


class Shares:
    """Draws the validation share image by image; the images of one row are in the same split."""

    def __init__(self, validation: float):
        if not 0 <= validation < 1:
            raise ValueError(f"--validation {validation}: must be a share of the pictures, from 0 to less than 1")
        self.validation = validation
        self._parent: dict[str, str] = {}

    def _root(self, name: str) -> str:
        while (up := self._parent.get(name, name)) != name:
            self._parent[name] = self._parent.get(up, up)
            name = up
        return name

    def link(self, keys: Iterable[str]) -> None:
        """Put the images of one row into the same split."""
        roots = sorted({self._root(each) for each in keys})
        for other in roots[1:]:  # the smallest key is the root, so that the order of rows does not matter
            self._parent[other] = roots[0]

    def split(self, keys: Iterable[str]) -> str:
        """The split of a row with these images. Call it after all rows are linked."""
        name = min(map(self._root, keys))
        drawn = int.from_bytes(hashlib.sha256(SEED + name.encode("utf-8", "replace")).digest()[:8])
        return "validation" if drawn < self.validation * 2**64 else "train"
