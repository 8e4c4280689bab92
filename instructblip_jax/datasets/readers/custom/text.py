"""Text in the user's files: its encoding, and the text of a cell."""

import codecs
import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.fields import BadRow, clean

IMAGE = "<image>"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, because it begins with UTF-16's mark
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_of(value: Any, what: str) -> str | None:
    """A cell as cleaned text; numbers and booleans as JSON writes them; None for None and NaN.

    ``what`` names the cell in the error. Raises BadRow for any other type and for infinity.
    """
    if isinstance(value, str):
        return clean(value)
    if forms.absent(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise BadRow(f"{what} is an infinite number")
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise BadRow(f"{what} is not text", f"{type(value).__name__} {str(value)[:60]!r}")


def without_markers(text: str) -> str:
    """The text without "<image>" markers; other markers stay as plain text."""
    return " ".join(part for part in map(str.strip, text.split(IMAGE)) if part) if IMAGE in text else text


def encoding_of(path: Path, encoding: str | None) -> str:
    """``encoding`` if given, else the encoding of the file's byte order mark, else UTF-8.

    Raises ValueError for an unknown encoding.
    """
    if encoding:
        try:
            return codecs.lookup(encoding).name
        except LookupError:
            raise ValueError(f"--encoding {encoding}: no such encoding; latin-1 and utf-16 are examples") from None
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8")


@contextlib.contextmanager
def opened(path: Path, encoding: str | None) -> Iterator[IO[str]]:
    """The file as text with its line ends unchanged. Raises ValueError naming line and byte if it cannot be decoded."""
    name = encoding_of(path, encoding)
    try:
        with path.open(encoding=name, newline="") as file:
            yield file
    except UnicodeError as error:
        raise ValueError(_where(path, name)) from error


def _where(path: Path, encoding: str) -> str:
    data = path.read_bytes()
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        mark = len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0  # that codec does not count its mark
        at = error.start + mark
        line = data[:at].decode(encoding, "ignore").count("\n") + 1
        return (
            f"{path}:{line}: byte {at} (0x{data[at]:02x}) is not {encoding.removesuffix('-sig').upper()}; "
            "set --encoding, for example to latin-1"
        )
    except UnicodeError as error:
        return f"{path}:1: is not {encoding} ({error}); set --encoding"
    return f"{path}:1: is not {encoding}; set --encoding"


def beginning(path: Path, encoding: str | None, size: int = 1 << 18) -> str:
    """The first ``size`` characters of a file."""
    with opened(path, encoding) as file:
        return file.read(size)
