"""Where a row's pictures are: inside the image roots, or in the row itself. None is opened."""

import base64
import binascii
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from instructblip_jax.data.draft import Media
from instructblip_jax.data.readers.custom.text import Unusable, clean

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"))
OUTSIDE = "path outside the image root"
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def media(value: Any, folder: Path, roots: Sequence[Path], video: bool = False) -> tuple[Media, ...]:
    """What a cell names: a path, a data: URI, {"bytes", "path"} as Hugging Face has it, bytes, or a list of these."""
    if isinstance(value, (list, tuple)):
        return tuple(each for item in value for each in media(item, folder, roots, video))
    if value is None or value == "":
        return ()
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return media(value["bytes"], folder, roots, video)
        return media(value.get("path"), folder, roots, video)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return (Media(data=bytes(value), video=video),)
    if not isinstance(value, str):
        raise Unusable("picture is not a path", f"{type(value).__name__} {str(value)[:60]!r}")
    if value[:5].lower() == "data:":
        return (Media(data=_inline(value), video=video),)
    return (Media(path=find(value, folder, roots), video=video),)


def _inline(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    try:
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("not base64")
        return base64.b64decode("".join(body.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise Unusable("broken data: URI", f"{head[:40]} ({error})") from None


def find(name: str, folder: Path, roots: Sequence[Path]) -> Path:
    """The file ``name`` in one of ``roots``, or in ``folder``. One that is in none of them is named where it was looked
    for first. Raises `Unusable` for what lies outside, an absolute path outside ``roots`` too."""
    text = clean(name)
    if _URL.match(text):
        raise Unusable("picture is a URL, nothing is downloaded", text[:200])
    if "\\" in text and "/" not in text:
        text = text.replace("\\", "/")
    where = (*roots, folder) if not os.path.isabs(text) else tuple(roots)
    inside = [path for root in where if (path := _inside(root, text)) is not None]
    if not inside:
        raise Unusable(OUTSIDE, text[:200])
    return next((found for path in inside if (found := _there(path)) is not None), inside[0])


def _inside(root: Path, name: str) -> Path | None:
    """root/name, if no "..", link or absolute path leads out of the root."""
    try:
        if not (root / name).resolve().is_relative_to(_resolved(root)):
            return None
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that no file can have
        raise Unusable("no possible path", f"{name[:200]!r} ({error})") from None
    return root / name


@lru_cache(maxsize=64)
def _resolved(root: Path) -> Path:
    return root.resolve()


def _there(path: Path) -> Path | None:
    """The file, or the one of its folder that differs only in case or in the form of accents."""
    try:
        if path.exists():
            return path
    except OSError as error:
        raise Unusable("no possible path", f"{path.name[:200]!r} ({error})") from None
    other = _folder(path.parent).get(_folded(path.name))
    return path.parent / other if other else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=16)
def _folder(folder: Path) -> dict[str, str]:
    try:
        return {_folded(name): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}
