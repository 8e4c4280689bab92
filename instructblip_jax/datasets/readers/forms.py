"""Forms that files of all makers share, read alike by `prepare` and by `score`: texts, ids, answers, what is absent."""

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")
_PRINTED = re.compile(r"[!-~]")
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters that show nothing although Unicode counts them among letters, marks or symbols."""
OBJECT_KEYS = ("answer", "caption")
"""Under which of these an answer stands that is an object, as VQA's are: {"answer": "red", "answer_confidence": …}."""


def printable(text: str) -> str:
    """Line ends as \\n, no other control characters but tabs, nothing around it; "" where nothing can be seen."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text).strip()
    return text if _PRINTED.search(text) or any(map(_is_seen, text)) else ""


def _is_seen(character: str) -> bool:
    kind = unicodedata.category(character)
    return (kind[0] not in "CZ" or kind in ("Co", "Cs")) and not _BLANK.match(character)


def normal(text: str) -> str:
    """`printable` text in NFC."""
    return unicodedata.normalize("NFC", printable(text))


def absent(value: Any) -> bool:
    """None, or the NaN that Python's json and pandas write for what is missing in a table."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def whole(value: Any) -> Any:
    """A number such as 1.0, which a table with gaps has for 1, as an int; all else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def id_text(value: Any) -> str | None:
    """The text by which ids are joined: 1, 1.0 and "1" are the same. None if ``value`` is not an id."""
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        return str(value)
    except ValueError:  # a number of thousands of digits
        return None


def answers_of(value: Any) -> list[Any]:
    """All answers of a row, one by one: of a text, a list of texts or of objects, or an object of lists."""
    if isinstance(value, Mapping):
        held = _of_object(value)
        return list(held) if isinstance(held, (list, tuple)) else [held]
    if isinstance(value, (list, tuple)):
        return [_of_object(item) if isinstance(item, Mapping) else item for item in value]
    return [value]


def _of_object(value: Mapping[str, Any]) -> Any:
    """The object itself where no answer stands in it: it is told as what it is."""
    return next((value[name] for name in OBJECT_KEYS if name in value), value)
