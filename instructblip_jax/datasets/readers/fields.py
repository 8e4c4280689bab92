"""Fields of a row: taken with their type, texts cleaned; what is wrong with a row raises `Bad`."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructblip_jax.datasets.readers import forms

Row = Mapping[str, Any]


class Bad(Exception):
    """A row that is no record: ``reason``, one of few phrases, and what is particular to the row."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def clean(text: str) -> str:
    """`forms.normal`. Raises Bad for lone surrogates: such a text cannot be written."""
    if _SURROGATE.search(text):
        raise Bad("lone surrogate", ascii(text[:60]))
    return forms.normal(text)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:60]  # ASCII: whatever it is, it can be printed


def need(row: Row, name: str) -> Any:
    """The field ``name``. Raises Bad where there is none."""
    if name not in row:
        raise Bad("missing field", name)
    return row[name]


def typed(value: Any, kind: type, name: str) -> Any:
    """``value``, if it is a ``kind`` (a bool is no int). Raises Bad."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Bad("wrong type", f"{name}: {_shown(value)}")
    return value


def text(row: Row, name: str) -> str:
    """The field ``name``, a text, cleaned. Raises Bad."""
    return clean(typed(need(row, name), str, name))


def full_text(row: Row, name: str) -> str:
    """Like `text`, and not empty."""
    found = text(row, name)
    if not found:
        raise Bad(f"empty {name}")
    return found


def answer_text(value: Any, name: str = "answer") -> str:
    """An answer, cleaned: a text, or a number as JSON writes it. Raises Bad."""
    if isinstance(value, (bool, int, float)):
        try:
            return json.dumps(value)
        except ValueError as error:  # too many digits
            raise Bad("wrong type", name) from error
    return clean(typed(value, str, name))


def texts(row: Row, name: str) -> tuple[str, ...]:
    """The field ``name``, a list of texts, cleaned. Raises Bad."""
    return tuple(answer_text(value, name) for value in typed(need(row, name), list, name))


def one_line(caption: str) -> str:
    """A cleaned caption, with single spaces for white space within."""
    return " ".join(clean(caption).split())


def caption(value: Any, name: str = "caption") -> str:
    """A caption on one line. Raises Bad where it is no text or empty."""
    found = one_line(typed(value, str, name))
    if not found:
        raise Bad("empty answer", name)
    return found


def captions(values: Any, name: str = "caption") -> tuple[str, ...]:
    """All captions of a picture: a list of texts, or one. Empty ones are left out, if others remain. Raises Bad."""
    listed = [values] if isinstance(values, str) else typed(values, list, name)
    found = tuple(filter(None, (one_line(typed(value, str, name)) for value in listed)))
    if not found:
        raise Bad("empty answer", name)
    return found


def ident(row: Row, name: str) -> int | str:
    """An id, of the type it has; `forms.id_text` joins both. Raises Bad for one that is neither number nor text."""
    found = forms.whole(need(row, name))
    if isinstance(found, bool) or not isinstance(found, (int, str)) or found == "":
        raise Bad("wrong type", f"{name}: {_shown(found)}")
    if isinstance(found, str) and (_SURROGATE.search(found) or _CONTROL.search(found)):
        raise Bad("wrong type", f"{name}: {_shown(found)}")
    if isinstance(found, int) and abs(found) >= 1 << 63:
        raise Bad("wrong type", f"{name}: a number of {found.bit_length()} bits")
    return found


def index(value: Any, count: int, name: str) -> int:
    """A number from 0 to ``count`` - 1. Raises Bad."""
    if not 0 <= typed(value, int, name) < count:
        raise Bad("label outside the candidates", f"{name}: {_shown(value)} of {count}")
    return value


def told(row: Row, *names: str) -> dict[str, Any]:
    """Of the fields ``names`` those that are there and are texts, numbers, truths or lists of them, for ``meta``."""
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
    """The values that say something, each once, in their order."""
    return tuple(dict.fromkeys(value for value in values if value))


def counted(values: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Distinct answers that say something, by descending count (ties: the first seen first), and their shares."""
    common = Counter(value for value in values if value).most_common()
    total = sum(count for _, count in common)
    return tuple(value for value, _ in common), tuple(count / total for _, count in common)


def options(choices: Sequence[str]) -> str:
    """Choices as the prompts list them: "(a) first (b) second"."""
    return " ".join(f"({letter(number)}) {choice}" for number, choice in enumerate(choices))


def letter(number: int) -> str:
    """0 -> a; what follows z is counted in numbers."""
    return chr(ord("a") + number) if number < 26 else str(number + 1)
