"""Streams JSON files of any size, one entry at a time, with the standard library's decoder.

That decoder keeps lone surrogates visible, refuses deep nesting and reports where a file is broken, and is as fast as
dedicated streaming parsers.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from instructblip_jax.datasets.readers.fields import BadRow
from instructblip_jax.datasets.readers.json_text import Decoder
from instructblip_jax.datasets.readers.text_files import lines, pieces

Entry = tuple[str, Any]
"""Location ("FILE:LINE", "FILE:KEY" or "FILE:[NUMBER]") and value; the value of an unreadable entry is a `BadRow`."""

_SPACE = re.compile(r"[ \t\n\r]*")
_MARGIN = 64
"""Characters. A value decoded closer than this to the window's end may be cut off: a number, a literal, an escape."""


class Absent(ValueError):
    """The file lacks a field, or the field has another type."""


class _Window:
    """The part of a file's text that is in memory; ``at`` is the offset of the next value in it."""

    def __init__(self, path: Path, text: Iterator[str] | None = None):
        self.path, self._pieces = path, pieces(path) if text is None else text
        self._decoder = Decoder()
        self.text, self.at, self._dropped, self._lines, self.ended = "", 0, 0, 1, False
        self.grow()

    def grow(self) -> None:
        """Drop what has been read, and load at least as much again as is left unread."""
        self._dropped += self.at
        self._lines += self.text.count("\n", 0, self.at)
        parts, wanted = [self.text[self.at :]], max(len(self.text) - self.at, 1)
        while wanted > 0 and not self.ended:
            piece = next(self._pieces, None)
            self.ended = piece is None
            parts.append(piece or "")
            wanted -= len(parts[-1])
        self.text, self.at = "".join(parts), 0

    def fail(self, what: str, at: int) -> NoReturn:
        line = self._lines + self.text.count("\n", 0, at)
        raise ValueError(f"{self.path}:{line}: broken JSON, {what} (character {self._dropped + at} of the file)")

    def peek(self) -> str:
        """The next character that is not white space, without consuming it; "" at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self.grow()

    def take(self, marks: str) -> str:
        """Consume the next character, which must be one of ``marks``. Raises ValueError for any other."""
        mark = self.peek()
        if not mark or mark not in marks:
            self.fail(f"expected {' or '.join(marks)}, found {mark or 'the end'}", self.at)
        self.at += 1
        return mark

    def value(self) -> Any:
        """Consume and return the next value; a `BadRow` for an object that has a key twice."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.value(self.text, self.at)
            except RecursionError:
                self.fail("nested too deeply", self.at)
            except json.JSONDecodeError as error:
                inside = error.pos < len(self.text) - _MARGIN and not error.msg.startswith("Unterminated string")
                if self.ended or inside:
                    self.fail(error.msg.lower(), error.pos)
            except ValueError as error:  # a number with too many digits
                self.fail(str(error), self.at)
            else:
                if self.ended or end < len(self.text) - _MARGIN:
                    self.at = end
                    return value
            self.grow()

    def skip(self) -> None:
        """Consume the next value; a list element by element, so that it need not fit into memory."""
        if self.peek() != "[":
            self.value()
            return
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            self.value()
            if self.take(",]") == "]":
                return


def _enter(path: Path, keys: tuple[str, ...], text: Iterator[str] | None = None) -> _Window:
    """A window positioned at the value under ``keys``. Raises `Absent` if there is none."""
    window = _Window(path, text)
    for depth, key in enumerate(keys, 1):
        name = ".".join(keys[:depth])
        if window.peek() != "{":
            raise Absent(f"{path}: has no field {name}: its parent is not an object")
        mark = window.take("{")
        while True:
            if window.peek() == "}":
                raise Absent(f"{path}: has no field {name}")
            if mark == ",":
                window.peek()
            found = window.value()
            window.take(":")
            if found == key:
                break
            window.skip()
            mark = window.take(",}")
            if mark == "}":
                raise Absent(f"{path}: has no field {name}")
    return window


def value(path: Path, *keys: str, text: Iterator[str] | None = None) -> Any:
    """The value under ``keys`` of a file. ``text``: the file's decoded text, if it is not UTF-8.

    Raises ValueError naming the file and the line.
    """
    window = _enter(path, keys, text)
    found = window.value()
    if isinstance(found, BadRow):
        window.fail(f"{found.reason}: {found.detail}", window.at)
    if not keys and window.peek():
        window.fail("there is text after the value", window.at)
    return found


def first_mark(path: Path) -> str:
    """The first character of a file that is not white space, such as "[" or "{"; "" for an empty file."""
    return _Window(path).peek()


def names(path: Path, text: Iterator[str] | None = None) -> Iterator[str]:
    """The keys of a file that is one object, in order; none for any other file. Raises ValueError like `value`."""
    window = _Window(path, text)
    if window.peek() != "{":
        return
    mark = window.take("{")
    while window.peek() != "}" and mark != "}":
        yield str(window.value())
        window.take(":")
        window.skip()
        mark = window.take(",}")


def elements(path: Path, *keys: str, text: Iterator[str] | None = None) -> Iterator[Entry]:
    """The elements of the list under ``keys``. Raises ValueError naming the file and the line."""
    window = _enter(path, keys, text)
    if window.peek() != "[":
        raise Absent(f"{path}: {'.'.join(keys) or 'the file'} is not a list")
    window.take("[")
    number = 0
    if window.peek() == "]":
        window.take("]")
    else:
        while True:
            yield f"{path}:[{number}]", window.value()
            number += 1
            if window.take(",]") == "]":
                break
    if not keys and window.peek():
        window.fail("there is text after the list", window.at)


def members(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(location, key, value) of each member of a file that is one object. Raises ValueError like `elements`."""
    window = _Window(path)
    if window.peek() != "{":
        raise ValueError(f"{path}: the file is not a JSON object")
    window.take("{")
    if window.peek() == "}":
        window.take("}")
    else:
        while True:
            key = window.value()
            if not isinstance(key, str):
                window.fail(f"the key {str(key)[:40]} is not a string", window.at)
            window.take(":")
            yield f"{path}:{key}", key, window.value()
            if window.take(",}") == "}":
                break
    if window.peek():
        window.fail("there is text after the object", window.at)


def json_lines(path: Path, opened: IO[bytes] | None = None) -> Iterator[Entry]:
    """The entries of a file with one JSON value per line; blank lines are skipped. ``opened``: see `lines`."""
    decoder = Decoder()
    for number, line in lines(path, opened):
        if line.strip():
            where = f"{path}:{number}"
            try:
                found = decoder.only(line)
            except RecursionError:
                yield where, BadRow("broken line", "nested too deeply")
            except ValueError as error:
                yield where, BadRow("broken line", f"{error}: {line[:80]}")
            else:
                yield where, found
