"""LLaVA's conversations, and those with roles and contents: a record a conversation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.data.draft import Skip
from instructblip_jax.data.readers.custom.json_rows import objects
from instructblip_jax.data.readers.custom.row import Row
from instructblip_jax.data.readers.custom.splits import of_name
from instructblip_jax.data.readers.custom.text import IMAGE, Unusable, text_of, without_markers

KEYS = ("conversations", "messages")
_ASKS = ("human", "user")
_ANSWERS = ("gpt", "assistant")
_SYSTEM = ("system", "developer")
_PICTURES = ("image", "images", "video")


def rows(path: Path, encoding: str | None, lines: bool) -> Iterator[Row | Skip]:
    """The conversations of a file."""
    for item in objects(path, encoding, lines):
        if isinstance(item, Skip):
            yield item
            continue
        where, number, fields = item
        present = [name for name in KEYS if fields.get(name) is not None]
        if len(present) > 1:
            raise ValueError(f"{where}: {' and '.join(present)} both mean the conversation; keep one of them")
        shown = [name for name in _PICTURES if fields.get(name) is not None]
        if len(shown) > 1:
            raise ValueError(f"{where}: {' and '.join(shown)} both mean the image; keep one of them")
        try:
            turns, system, images = _turns(fields.get(present[0]) if present else None)
        except Unusable as error:
            yield Skip(where, error.reason, error.detail)
            continue
        named = ("id", "split", "task", "image_id", "question_id")
        taken = {name: fields[name] for name in named if name in fields}
        rest = {name: value for name, value in fields.items() if name not in (*KEYS, *_PICTURES, *named)}
        taken["meta"] = rest | ({"system": system} if system else {})
        taken["image"] = fields[shown[0]] if shown else images
        taken["video"] = shown == ["video"]
        yield Row(where, number, taken, path.parent, of_name(path), turns=turns)


def _turns(messages: Any) -> tuple[tuple[tuple[str, str], ...], str, list]:
    """(question, answer) pairs, what the system says, and pictures that stand in the contents."""
    if not isinstance(messages, list):
        raise Unusable("no conversation")
    turns: list[tuple[str, str]] = []
    asked: list[str] = []
    system: list[str] = []
    images: list = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise Unusable("no conversation", f"a message is {str(message)[:60]!r}")
        role = str(message.get("from", message.get("role", ""))).lower()
        text = _content(message.get("value", message.get("content")), images)
        if role in _SYSTEM:
            system.append(text)
        elif role in _ASKS:
            asked.append(without_markers(text))
        elif role not in _ANSWERS:
            raise Unusable("unknown speaker", repr(role[:40]))
        elif asked:  # what is said before the first question answers none
            if not text:
                raise Unusable("empty answer")
            question = "\n".join(filter(None, asked))
            if not question and not turns:
                raise Unusable("blank instruction")
            turns.append((question, text))
            asked = []
    if not turns:
        raise Unusable("empty answer", "nobody answers in this conversation")
    return tuple(turns), "\n".join(filter(None, system)), images


def _content(value: Any, images: list) -> str:
    """The text of a message; pictures among its parts go to ``images``."""
    if not isinstance(value, list):
        return text_of(value, "message") or ""
    parts = []
    for part in value:
        if not isinstance(part, Mapping):
            parts.append(text_of(part, "message") or "")
        elif part.get("type") == "text" or "text" in part:
            parts.append(text_of(part.get("text"), "message") or "")
        elif str(part.get("type")).startswith("image"):
            shown = part.get("image_url", part.get("image", part.get("url", part.get("path"))))
            shown = shown.get("url") if isinstance(shown, Mapping) and "url" in shown else shown
            parts.append(IMAGE)
            if shown is not None:
                images.append(shown)
        else:
            raise Unusable("unknown part of a message", str(part.get("type"))[:40])
    return "\n".join(filter(None, parts))
