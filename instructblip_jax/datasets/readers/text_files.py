"""Reads UTF-8 text strictly: an invalid byte raises an error with its position and is never silently replaced."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import IO

CHUNK = 1 << 20  # bytes


def _refuse(path: Path, line: int, byte: int) -> ValueError:
    return ValueError(f"{path}:{line}: not UTF-8 (byte {byte} of the file); convert the file, for example with iconv")


def lines(path: Path, opened: IO[bytes] | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a file's lines. ``opened``: a file in the archive ``path``.

    Raises ValueError naming file, line and byte.
    """
    start = 0
    with opened or path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _refuse(path, number, start + error.start) from error
            start += len(raw)
            yield number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")


def pieces(path: Path) -> Iterator[str]:
    """A file's text in pieces, without a byte order mark. Raises ValueError naming file, line and byte."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    read, line = 0, 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            waiting = len(decoder.getstate()[0])  # bytes of a character that began in the previous chunk
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                inside = chunk[: max(error.start - waiting, 0)].count(b"\n")
                raise _refuse(path, line + inside, read - waiting + error.start) from error
            if not chunk:
                return
            read, line = read + len(chunk), line + chunk.count(b"\n")
            yield text
