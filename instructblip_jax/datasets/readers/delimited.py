"""Splits the lines of CSV and TSV files into rows of cells: one row per line, unless a quoted cell spans several lines.

A cell is quoted if it begins and ends with a quote and every quote in between is doubled or escaped by a backslash, as
spreadsheets and pandas write it. Any other quote is text: `5" disc`, `"so" he said`. The closing quote of an open cell
is searched for in the lines below, but not beyond a line that looks like a separate row. If there is none, the open
quote is text in a TSV, where quoting is rare, and makes the row a `BadRow` in other files. In either case the lines
below are then read as separate rows.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from instructblip_jax.datasets.readers.fields import BadRow

QUOTE = '"'
LONGEST = 1 << 17
"""Limit, in characters, of a row that spans several lines."""


class Line(NamedTuple):
    """A row: the number of its first line, its cells, and the number of non-blank lines that it spans."""

    number: int
    cells: list[str] | BadRow
    lines: int


class Splitter:
    """Splits lines into cells.

    Args:
      sign: the delimiter.
      count: number of columns.
      looks_like_a_row: (cells of the open row, cells of a line below) -> True if that line is a separate row. Called
      for each line that an open quote would include although it has at least ``count`` cells.
    """

    def __init__(
        self,
        sign: str,
        count: int,
        looks_like_a_row: Callable[[list[str], list[str]], bool] = lambda own, cells: True,
    ):
        self._sign, self._count, self._looks = sign, count, looks_like_a_row
        end = rf" *(?={re.escape(sign)}|\r?\n?\Z)"
        doubled, escaped = r'"((?:[^"]|"")*+)"', r'"((?:[^"\\]|\\.)*+)"'
        self._quoted = (
            (re.compile(doubled + end, re.DOTALL), re.compile('""'), '"'),
            (re.compile(escaped + end, re.DOTALL), re.compile(r"\\([\"\\])"), r"\1"),
        )
        self._unended = re.compile(r'"(?:(?:[^"]|"")*+|(?:[^"\\]|\\.)*+)\Z', re.DOTALL)

    def is_blank(self, line: str) -> bool:
        """True if every cell of the line is empty."""
        return not line.strip(self._sign + QUOTE + " \t\r\n\ufeff")

    def cells(self, text: str) -> list[str]:
        """The cells of one row."""
        return self._split(text)[0]

    def _split(self, text: str) -> tuple[list[str], int]:
        """The cells, and the offset of the first cell with an unclosed quote, or -1."""
        if QUOTE not in text:
            return text.rstrip("\r\n").split(self._sign), -1
        cells, at, unclosed = list[str](), 0, -1
        while True:
            cell, end, closed = self._cell(text, at)
            cells.append(cell)
            if unclosed < 0 and not closed and cell.count(QUOTE) % 2:
                unclosed = at
            if end == len(text) or text[end] != self._sign:
                cells[-1] = cell if closed else cell.rstrip("\r\n")
                return cells, unclosed
            at = end + 1

    def _cell(self, text: str, at: int) -> tuple[str, int, bool]:
        """The cell at ``at``, its end, and False if it begins with a quote that is not closed."""
        if not text.startswith(QUOTE, at):
            end = self._end(text, at)
            return text[at:end].rstrip("\r\n") if end == len(text) else text[at:end], end, True
        for form, marks, mark in self._quoted:
            if found := form.match(text, at):
                return marks.sub(mark, found[1]), found.end(), True
        end = self._end(text, at)
        return text[at:end], end, False

    def _end(self, text: str, at: int) -> int:
        found = text.find(self._sign, at)
        return len(text) if found < 0 else found

    def rows(self, lines: Iterator[str], first: int = 1) -> Iterator[Line]:
        """The rows of ``lines``, which are numbered from ``first``; blank lines are skipped."""
        below: deque[str] = deque()

        def ahead(number: int) -> str | None:
            while len(below) <= number and (line := next(lines, None)) is not None:
                below.append(line)
            return below[number] if number < len(below) else None

        number = first
        while ahead(0) is not None:
            text = below.popleft()
            found, unclosed = self._split(text)
            cells: list[str] | BadRow = found
            taken = [text]
            if unclosed >= 0:
                closed = self._closed(text, unclosed, found, ahead)
                if not isinstance(closed, str):
                    cells, more = closed
                    taken += [below.popleft() for _ in range(more)]
                elif self._sign != "\t":
                    cells = BadRow("unbalanced quote", f"{text[unclosed : unclosed + 60].strip()} {closed}")
            if not self.is_blank("".join(taken)):
                yield Line(number, cells, sum(not self.is_blank(line) for line in taken))
            number += len(taken)

    def _closed(
        self, text: str, at: int, own: list[str], ahead: Callable[[int], str | None]
    ) -> tuple[list[str], int] | str:
        """Close the cell at ``at`` in a line below.

        Returns the row's cells and the number of lines below that it uses, or the reason why it stays open. If
        ``own``, the cells of the row's first line, already looks like a whole row, so may the closing line.
        """
        full = len(own) >= self._count and self._looks(own, own)
        parts, size, number = [text], len(text), 0
        while (line := ahead(number)) is not None:
            before, size, number = size, size + len(line), number + 1
            parts.append(line)
            if size > LONGEST:
                return f"is not closed within {LONGEST:,} characters"
            if QUOTE in line:
                whole = "".join(parts)
                _, end, closed = self._cell(whole, at)
                if closed:
                    if self._is_row(own, line if full else line[: end - before]):
                        return "is closed only in a line below that looks like a row"
                    return self.cells(whole), number
            if self._is_row(own, line):
                return "is not closed before a line that looks like a row"
            if QUOTE in line and not self._unended.match(whole, at):
                return "is not closed: a quote in the text below it is not doubled"
        return "is not closed before the end of the file"

    def _is_row(self, own: list[str], line: str) -> bool:
        cells = self.cells(line)
        return len(cells) >= self._count and self._looks(own, cells)
