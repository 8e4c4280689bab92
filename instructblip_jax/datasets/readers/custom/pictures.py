"""Finds the media of a row, in the image roots or in the row itself, without opening them."""

import base64
import binascii
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from instructblip_jax.data.record import IMAGE
from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.fields import BadRow, encodable
from instructblip_jax.datasets.readers.forms import printable

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"))
OUTSIDE = "path outside the image root"
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def media(value: Any, folder: Path, roots: Sequence[Path], kind: str = IMAGE) -> tuple[Media, ...]:
    """The media of a cell, of one kind (`datasets.draft.KINDS`): a path, a data: URI, Hugging Face's {"bytes", "path"},
    bytes, or a list of these.

    Raises BadRow for any other value, and like `find`.
    """
    if isinstance(value, (list, tuple)):
        return tuple(each for item in value for each in media(item, folder, roots, kind))
    if value is None or value == "":
        return ()
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return media(value["bytes"], folder, roots, kind)
        return media(value.get("path"), folder, roots, kind)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return (Media(data=bytes(value), kind=kind),)
    if not isinstance(value, str):
        raise BadRow("neither a path nor bytes", f"{type(value).__name__} {str(value)[:60]!r}")
    if value[:5].lower() == "data:":
        return (Media(data=_inline(value), kind=kind),)
    return (Media(path=find(value, folder, roots), kind=kind),)


def _inline(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    try:
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("not base64")
        return base64.b64decode("".join(body.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadRow("broken data: URI", f"{head[:40]} ({error})") from None


def find(name: str, folder: Path, roots: Sequence[Path]) -> Path:
    """The file ``name`` in one of ``roots`` or in ``folder``; if it is in none, the first path that was tried.

    The name is tried as written, then with "/" for each "\\" of Windows. In every part of the path, differences in
    letter case and in the Unicode form of accents are ignored.

    Raises BadRow if the name leads outside these folders; an absolute path must be inside one of ``roots``.
    """
    text = printable(encodable(name))
    if _URL.match(text):
        raise BadRow("path is a URL, nothing is downloaded", text[:200])
    inside: list[Path] = []
    for spelled in dict.fromkeys((text, text.replace("\\", "/"))):
        where = (*roots, folder) if not os.path.isabs(spelled) else tuple(roots)
        inside = [root / spelled for root in where if _is_inside(root, root / spelled)]
        for root in where:
            if root / spelled in inside and (found := _there(root, spelled)) is not None:
                return found
    if not inside:
        raise BadRow(OUTSIDE, text[:200])
    return inside[0]


def _is_inside(root: Path, path: Path) -> bool:
    """True unless "..", a link or an absolute path leads out of the root. Raises BadRow for an impossible path."""
    try:
        return path.resolve().is_relative_to(_resolved(root))
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that no file can have
        raise BadRow("impossible path", f"{path.name[:200]!r} ({error})") from None


@lru_cache(maxsize=64)
def _resolved(root: Path) -> Path:
    return root.resolve()


def _there(root: Path, name: str) -> Path | None:
    """The file ``name`` in a root, or one whose path differs only in letter case or Unicode form; None without one."""
    path = root / name
    try:
        if path.exists():
            return path
    except OSError as error:
        raise BadRow("impossible path", f"{path.name[:200]!r} ({error})") from None
    folder = _folder(path.parent)
    other = folder and _part(folder, path.name)
    # the file that was found may be a link that leads outside
    return other if other and _is_inside(root, other) else None


@lru_cache(maxsize=1 << 14)
def _folder(path: Path) -> Path | None:
    """The folder, or one whose path differs only in letter case or Unicode form; None if there is none."""
    if path.is_dir():
        return path
    above = _folder(path.parent) if path.parent != path else None
    found = above and _part(above, path.name)
    return found if found and found.is_dir() else None


def _part(folder: Path, name: str) -> Path | None:
    """The entry of a folder with this name, ignoring letter case and Unicode form; None if there is none."""
    other = _names(folder).get(_folded(name))
    return folder / other if other else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=1 << 10)
def _names(folder: Path) -> dict[str, str]:
    try:
        return {_folded(name): name for name in sorted(os.listdir(folder), reverse=True)}
    except OSError:
        return {}
