"""Parses lists written as text in table cells: JSON, Python lists, and NumPy arrays as written by pandas."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from instructblip_jax.datasets.readers.fields import BadRow

LONGEST = 1 << 20
"""Limit, in characters, of a list that is not JSON."""
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_ITEM = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<word>[^\s,'"\[\](){}:]+))\s*(?P<comma>,?)""", re.DOTALL
)
_WORDS = {
    "None": None,
    "nan": None,
    "NaN": None,
    "null": None,
    "True": True,
    "true": True,
    "False": False,
    "false": False,
}


def of_text(text: str, column: str) -> Any:
    """The list or object that the text spells, else the text. Raises BadRow for a text that begins with "[" but cannot
    be parsed."""
    bare = text.strip().lstrip("\ufeff")
    if bare[:1] not in _BRACKETS:
        return text
    found = _read(bare)
    if found is not None:
        return found
    if bare.startswith("["):
        raise BadRow(f"broken list in {column}", f"neither JSON nor Python: {bare[:60]!r}")
    return text


def of_texts(text: str) -> Any:
    """The list of texts or objects that the text spells, else the text, because "[0.1, 0.2]" may be an answer."""
    bare = text.strip().lstrip("\ufeff")
    found = _read(bare) if bare.startswith("[") else None
    return found if found and all(isinstance(item, (str, Mapping)) or item is None for item in found) else text


def _read(text: str) -> list[Any] | Mapping[str, Any] | None:
    """The list or object that a text in brackets spells; None if it cannot be parsed."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if len(text) > LONGEST or not text.endswith(_BRACKETS[text[0]]):
            return None
        found = _items(text[1:-1])
        # "(one)" and "{one}" are ordinary text
        if found is None or (text[0] != "[" and not any(isinstance(item, str) for item in found)):
            found = _literal(text)
    return found if isinstance(found, (list, Mapping)) else None


def _items(text: str) -> list[Any] | None:
    """Texts, numbers and constants separated by commas or, as in NumPy, only by white space, where Python itself would
    concatenate the texts. None if there is anything else."""
    found: list[Any] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        item = _ITEM.match(text, at)
        if item is None:
            return None
        at = item.end()
        if item["text"] is not None:
            value = _literal(item["text"])
            if value is None:
                return None
            found.append(value)
        elif item["word"] in _WORDS:
            found.append(_WORDS[item["word"]])
        else:
            try:
                found.append(json.loads(item["word"].removesuffix(".")))  # NumPy's "1."
            except ValueError:
                return None
    return found


def _literal(text: str) -> Any:
    """The value of a Python literal; None if the text is not one or is nested too deeply."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return list(found) if isinstance(found, (tuple, set)) else found
