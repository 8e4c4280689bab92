"""Conventions shared by files from many sources, read the same way by `prepare` and `score`: texts, ids, answers,
missing values."""

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")
_PRINTED = re.compile(r"[!-~]")
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters that are invisible although Unicode classifies them as letters, marks or symbols."""
OBJECT_KEYS = ("answer", "caption")
"""Keys that hold the text of an answer that is an object, such as VQA's {"answer": "red", "answer_confidence": …}."""


def printable(text: str) -> str:
    """The text with \\n line ends, stripped, without control characters other than tabs; "" if nothing is visible."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text).strip()
    return text if _PRINTED.search(text) or any(map(_is_seen, text)) else ""


def _is_seen(character: str) -> bool:
    kind = unicodedata.category(character)
    return (kind[0] not in "CZ" or kind in ("Co", "Cs")) and not _BLANK.match(character)


def normal(text: str) -> str:
    """The `printable` text in Unicode form NFC."""
    return unicodedata.normalize("NFC", printable(text))


def absent(value: Any) -> bool:
    """True for None and for NaN, which Python's json and pandas write for a missing value."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def whole(value: Any) -> Any:
    """A float such as 1.0, which a table column with gaps holds for 1, as an int; other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def id_text(value: Any) -> str | None:
    """The text by which ids are joined, the same for 1, 1.0 and "1"; None if ``value`` is not an id."""
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        return str(value)
    except ValueError:  # an int of thousands of digits, which Python refuses to print
        return None


def answers_of(value: Any) -> list[Any]:
    """All answers of a row as a list. ``value``: a text, a list of texts or objects, or an object that holds a list."""
    if isinstance(value, Mapping):
        held = _of_object(value)
        return list(held) if isinstance(held, (list, tuple)) else [held]
    if isinstance(value, (list, tuple)):
        return [_of_object(item) if isinstance(item, Mapping) else item for item in value]
    return [value]


def _of_object(value: Mapping[str, Any]) -> Any:
    """The answer in an object; without one the object itself, so that the error message shows it."""
    return next((value[name] for name in OBJECT_KEYS if name in value), value)
