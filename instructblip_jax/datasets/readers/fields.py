"""Typed, cleaned access to the fields of a source row. A row that cannot become a record raises `BadRow`."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructblip_jax.datasets.readers import forms

SourceRow = Mapping[str, Any]
"""A row of a source file: field name -> value, as in the file."""


class BadRow(Exception):
    """A row that cannot become a record.

    Attributes:
      reason: one of a few fixed phrases, by which the report counts.
      detail: what is specific to this row.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


MISMATCH = "pictures and <image> differ in number"
"""The reason for skipping a conversation whose text marks more or fewer images than its row has."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def clean(text: str) -> str:
    """The text after `forms.normal`. Raises BadRow for a lone surrogate, which UTF-8 cannot encode."""
    return forms.normal(encodable(text))


def encodable(text: str) -> str:
    """The text unchanged. Raises BadRow for a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("lone surrogate", ascii(text[max(0, error.start - 20) : error.end + 20])) from None
    return text


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:60]  # ASCII, so that any terminal can print it


def need(row: SourceRow, name: str) -> Any:
    """The field ``name``. Raises BadRow if it is missing."""
    if name not in row:
        raise BadRow("missing field", name)
    return row[name]


def typed(value: Any, kind: type, name: str) -> Any:
    """``value`` unchanged. Raises BadRow unless it is an instance of ``kind``; a bool does not count as an int."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRow("wrong type", f"{name}: {_shown(value)}")
    return value


def text(row: SourceRow, name: str) -> str:
    """The string field ``name``, cleaned. Raises BadRow if it is missing or not a string."""
    return clean(typed(need(row, name), str, name))


def full_text(row: SourceRow, name: str) -> str:
    """Like `text`, but also raises BadRow if nothing is left after cleaning."""
    found = text(row, name)
    if not found:
        raise BadRow(f"empty {name}")
    return found


def answer_text(value: Any, name: str = "answer") -> str:
    """An answer as cleaned text; numbers and booleans as JSON writes them. Raises BadRow for other types."""
    if isinstance(value, (bool, int, float)):
        try:
            return json.dumps(value)
        except ValueError as error:  # too many digits
            raise BadRow("wrong type", name) from error
    return clean(typed(value, str, name))


def texts(row: SourceRow, name: str) -> tuple[str, ...]:
    """The items of the list ``name``, each as `answer_text`. Raises BadRow if it is missing or not a list."""
    return tuple(answer_text(value, name) for value in typed(need(row, name), list, name))


def one_line(caption: str) -> str:
    """A cleaned caption in which every run of white space is one space."""
    return " ".join(clean(caption).split())


def caption(value: Any, name: str = "caption") -> str:
    """A caption on one line. Raises BadRow if it is not a string or is empty."""
    found = one_line(typed(value, str, name))
    if not found:
        raise BadRow("empty answer", name)
    return found


def captions(values: Any, name: str = "caption") -> tuple[str, ...]:
    """All captions of an image, given as one string or a list of strings. Empty ones are dropped.

    Raises BadRow if a caption is not a string or none remains.
    """
    listed = [values] if isinstance(values, str) else typed(values, list, name)
    found = tuple(filter(None, (one_line(typed(value, str, name)) for value in listed)))
    if not found:
        raise BadRow("empty answer", name)
    return found


def ident(row: SourceRow, name: str) -> int | str:
    """The id in the field ``name``, an int or a non-empty string; join ids of both types by `forms.id_text`.

    Raises BadRow for any other value, a string with control characters, and an int beyond 64 bits.
    """
    found = forms.whole(need(row, name))
    if isinstance(found, bool) or not isinstance(found, (int, str)) or found == "":
        raise BadRow("wrong type", f"{name}: {_shown(found)}")
    if isinstance(found, str) and (_SURROGATE.search(found) or _CONTROL.search(found)):
        raise BadRow("wrong type", f"{name}: {_shown(found)}")
    if isinstance(found, int) and abs(found) >= 1 << 63:
        raise BadRow("wrong type", f"{name}: a number of {found.bit_length()} bits")
    return found


def index(value: Any, count: int, name: str) -> int:
    """``value`` unchanged. Raises BadRow unless it is an int from 0 to ``count`` - 1."""
    if not 0 <= typed(value, int, name) < count:
        raise BadRow("label outside the candidates", f"{name}: {_shown(value)} of {count}")
    return value


def extras(row: SourceRow, *names: str) -> dict[str, Any]:
    """The fields among ``names`` with strings, numbers, booleans or lists of these, for `Record.meta`."""
    return {name: kept for name in names if (kept := _plain(row.get(name))) is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return None if _SURROGATE.search(value) else clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else None
    if isinstance(value, list):
        kept = [None if isinstance(item, list) else _plain(item) for item in value]
        return None if None in kept else kept
    return None


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """The non-empty values without duplicates, in order of first appearance."""
    return tuple(dict.fromkeys(value for value in values if value))


def counted(values: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Distinct non-empty answers, most frequent first (ties: first seen first), and their shares, with sum 1."""
    common = Counter(value for value in values if value).most_common()
    total = sum(count for _, count in common)
    return tuple(value for value, _ in common), tuple(count / total for _, count in common)


def options(choices: Sequence[str]) -> str:
    """The choices as prompts list them: "(a) first (b) second"."""
    return " ".join(f"({letter(number)}) {choice}" for number, choice in enumerate(choices))


def letter(number: int) -> str:
    """The label of choice ``number``: 0 -> "a", 25 -> "z", 26 -> "27"."""
    return chr(ord("a") + number) if number < 26 else str(number + 1)
