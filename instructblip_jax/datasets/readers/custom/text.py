"""Text of people's files: which encoding it is in, and what is taken out of it."""

import codecs
import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from instructblip_jax.datasets.readers import forms

IMAGE = "<image>"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Unusable(ValueError):
    """A row that is no record: the reason by which it is counted, and what is particular to it."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def clean(text: str) -> str:
    """`forms.normal`. Raises `Unusable` for a half of a surrogate pair, which no UTF-8 file can hold."""
    return forms.normal(encodable(text))


def encodable(text: str) -> str:
    """The text as it is. Raises `Unusable` for one that no UTF-8 file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable("lone surrogate", ascii(text[max(0, error.start - 20) : error.end + 20])) from None
    return text


def text_of(value: Any, what: str) -> str | None:
    """A cell as text; numbers, true and false as JSON writes them. None for None and NaN. Raises `Unusable`."""
    if isinstance(value, str):
        return clean(value)
    if forms.absent(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise Unusable(f"{what} is an infinite number")
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise Unusable(f"{what} is not text", f"{type(value).__name__} {str(value)[:60]!r}")


def without_markers(text: str) -> str:
    """Without the places where a picture stands; other markers stay, as plain text."""
    return " ".join(part for part in map(str.strip, text.split(IMAGE)) if part) if IMAGE in text else text


def encoding_of(path: Path, encoding: str | None) -> str:
    """``encoding``, or what the file's first bytes say, or UTF-8. Raises ValueError for an unknown name."""
    if encoding:
        try:
            return codecs.lookup(encoding).name
        except LookupError:
            raise ValueError(f"--encoding {encoding}: no such encoding; latin-1 and utf-16 are two") from None
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8")


@contextlib.contextmanager
def opened(path: Path, encoding: str | None) -> Iterator[IO[str]]:
    """The file as text, line ends as they are. What cannot be decoded raises a ValueError with its line and byte."""
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
        mark = len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0  # which that codec does not count
        at = error.start + mark
        line = data[:at].decode(encoding, "ignore").count("\n") + 1
        return (
            f"{path}:{line}: byte {at} (0x{data[at]:02x}) is not {encoding.removesuffix('-sig').upper()}; "
            "--encoding says what it is, such as latin-1"
        )
    except UnicodeError as error:
        return f"{path}:1: is not {encoding} ({error}); --encoding says what it is"
    return f"{path}:1: is not {encoding}; --encoding says what it is"


def beginning(path: Path, encoding: str | None, size: int = 1 << 18) -> str:
    """The first characters of a file."""
    with opened(path, encoding) as file:
        return file.read(size)
