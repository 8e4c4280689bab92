"""Decodes JSON text with the standard library's decoder, but does not silently keep the last of two equal keys."""

import json
from typing import Any

from instructblip_jax.datasets.readers.fields import BadRow


class Decoder:
    """Decodes values. A value in which an object has two different values under one key becomes a `BadRow`.

    NaN and Infinity are accepted, as by Python's json: only the code that reads a field knows if they matter there.
    """

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._twice = ""

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and not self._twice:
            # repr: NaN is not equal to itself
            self._twice = next((key for key, value in pairs if repr(found[key]) != repr(value)), "")
        return found

    def value(self, text: str, at: int = 0) -> tuple[Any, int]:
        """The value that begins at ``at``, and its end. Raises ValueError and RecursionError, as json does."""
        self._twice = ""
        found, end = self._decoder.raw_decode(text, at)
        return BadRow("key twice in an object", repr(self._twice[:60])) if self._twice else found, end

    def only(self, text: str) -> Any:
        """The only value of the text, which may be padded. Raises ValueError and RecursionError, as json does."""
        start = len(text) - len(text.lstrip(" \t\r\n"))
        found, end = self.value(text, start)
        if text[end:].strip(" \t\r\n"):
            raise json.JSONDecodeError("Extra data", text, end)
        return found
