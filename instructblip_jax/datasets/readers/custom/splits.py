"""Which split a row belongs to: what it says, what its file or folder is called, or a share of the pictures."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.custom.text import Unusable

SPLITS = ("train", "validation", "test")
_FULL = {"train": "train", "val": "validation", "dev": "validation", "test": "test"}
_WORD = re.compile(r"(?:^|[^a-z])(train|val|dev|test)(?:ing|id|idation)?(?![a-z])")
_FOLDER = re.compile(r"(train|val|dev|test)(?:ing|id|idation)?[-_]?\d*")
SEED = b"instructblip_jax"


def of_name(path: Path) -> str | None:
    """What a file's name says, train*, val*, test* or one of these words in it; else its folder's."""
    stem = path.name.lower()
    found = re.match("(train|val|test)", stem) or _WORD.search(stem)
    return _FULL[found[1]] if found else of_folder(path.parent.name)


def of_folder(name: str) -> str | None:
    """What a folder's name says, where it is nothing but the name of a split."""
    found = _FOLDER.fullmatch(name.lower())
    return _FULL[found[1]] if found else None


def of_field(value: str) -> str:
    """The split that a row says it is of. Raises `Unusable` for a word that is none."""
    found = re.match("(train|val|dev|test)", value.lower())
    if not found:
        raise Unusable("unknown split", f"{value[:40]!r}; it is {', '.join(SPLITS)}")
    return _FULL[found[1]]


def key(media: Media) -> str:
    """What is the same for the same picture, and short."""
    if media.data is not None:
        return hashlib.sha256(media.data).hexdigest()
    return f"{media.path.resolve() if media.path else ''}:{media.offset}"


class Shares:
    """Draws the validation share picture by picture. Pictures that one row shows together stay together."""

    def __init__(self, validation: float):
        if not 0 <= validation < 1:
            raise ValueError(f"--validation {validation}: it is a share of the pictures, from 0 to less than 1")
        self.validation = validation
        self._parent: dict[str, str] = {}

    def _root(self, name: str) -> str:
        while (up := self._parent.get(name, name)) != name:
            self._parent[name] = self._parent.get(up, up)
            name = up
        return name

    def link(self, keys: Iterable[str]) -> None:
        """These are of one row."""
        roots = sorted({self._root(each) for each in keys})
        for other in roots[1:]:  # the first in order stands for all, whatever the order of rows
            self._parent[other] = roots[0]

    def split(self, keys: Iterable[str]) -> str:
        """The split of a row with these pictures, all rows linked."""
        name = min(map(self._root, keys))
        drawn = int.from_bytes(hashlib.sha256(SEED + name.encode("utf-8", "replace")).digest()[:8])
        return "validation" if drawn < self.validation * 2**64 else "train"
