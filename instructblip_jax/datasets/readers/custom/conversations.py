"""Reads conversations, in LLaVA's form or as messages with roles and contents: one record per conversation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.readers.custom.json_rows import each, objects
from instructblip_jax.datasets.readers.custom.own_row import OwnRow, OwnRows
from instructblip_jax.datasets.readers.custom.splits import of_name
from instructblip_jax.datasets.readers.custom.text import IMAGE, text_of, without_markers
from instructblip_jax.datasets.readers.fields import MISMATCH, BadRow

KEYS = ("conversations", "messages")
_ASKS = ("human", "user")
_ANSWERS = ("gpt", "assistant")
_SYSTEM = ("system", "developer")
_PICTURES = ("image", "images", "video")


def rows(path: Path, encoding: str | None, lines: bool) -> OwnRows:
    """The conversations of a file."""
    split = of_name(path)

    def row(where: str, number: int, fields: dict[str, Any]) -> OwnRow | Skip:
        present = [name for name in KEYS if fields.get(name) is not None]
        if len(present) > 1:
            raise ValueError(f"{where}: {' and '.join(present)} both mean the conversation; keep one of them")
        shown = [name for name in _PICTURES if fields.get(name) is not None]
        if len(shown) > 1:
            raise ValueError(f"{where}: {' and '.join(shown)} both mean the image; keep one of them")
        try:
            conversation = _turns(fields.get(present[0]) if present else None)
        except BadRow as error:
            return Skip(where, error.reason, error.detail)
        given = fields[shown[0]] if shown else conversation.images
        pictures = len(given) if isinstance(given, (list, tuple)) else int(given not in (None, ""))
        # Without any marker the images precede the text.
        if conversation.markers not in (0, pictures) and shown != ["video"]:
            return Skip(where, MISMATCH, f"{pictures} pictures, {conversation.markers} {IMAGE}")
        named = ("id", "split", "task", "image_id", "question_id")
        taken = {name: fields[name] for name in named if name in fields}
        rest = {name: value for name, value in fields.items() if name not in (*KEYS, *_PICTURES, *named)}
        taken["meta"] = rest | ({"system": conversation.system} if conversation.system else {})
        taken["image"] = given
        taken["video"] = shown == ["video"]
        return OwnRow(where, number, taken, path.parent, split, turns=conversation.turns, notes=conversation.notes)

    return (yield from each(objects(path, encoding, lines), row))


class _Conversation(NamedTuple):
    """(question, answer) pairs, the system message, the images within messages, the number of "<image>" in questions,
    and notes on joined or dropped messages."""

    turns: tuple[tuple[str, str], ...]
    system: str
    images: list
    markers: int
    notes: tuple[str, ...]


def _turns(messages: Any) -> _Conversation:
    """The conversation of a list of messages; consecutive messages of one speaker are joined. Raises BadRow."""
    if not isinstance(messages, list):
        raise BadRow("no conversation")
    runs: list[tuple[str, list[str]]] = []  # ("question" or "answer", consecutive messages of one speaker)
    system: list[str] = []
    images: list = []
    markers = 0
    for message in messages:
        if not isinstance(message, Mapping):
            raise BadRow("no conversation", f"a message is {str(message)[:60]!r}")
        role = str(message.get("from", message.get("role", ""))).lower()
        text = _content(message.get("value", message.get("content")), images)
        if role in _SYSTEM:
            system.append(text)
            continue
        if role not in (*_ASKS, *_ANSWERS):
            raise BadRow("unknown speaker", repr(role[:40]))
        part = "question" if role in _ASKS else "answer"
        if not runs or runs[-1][0] != part:
            runs.append((part, []))
        markers += text.count(IMAGE) if part == "question" else 0
        runs[-1][1].append(without_markers(text) if part == "question" else text)
    notes = [f"{part}s in a row joined" for part, texts in runs if len(texts) > 1]
    joined = [(part, "\n".join(filter(None, texts))) for part, texts in runs]
    if joined and joined[0][0] == "answer":
        notes.append("answer before any question left out")
        joined = joined[1:]
    if len(joined) % 2:
        notes.append("question without an answer left out")
        joined = joined[:-1]
    turns = tuple((question, answer) for (_, question), (_, answer) in zip(joined[::2], joined[1::2], strict=True))
    if not turns:
        raise BadRow("empty answer", "nobody answers in this conversation")
    if not all(answer for _, answer in turns):
        raise BadRow("empty answer")
    if not turns[0][0]:
        raise BadRow("blank instruction")
    notes += ["answer to an empty question" for question, _ in turns if not question]
    return _Conversation(turns, "\n".join(filter(None, system)), images, markers, tuple(notes))


def _content(value: Any, images: list) -> str:
    """The text of a message; images among its parts are appended to ``images``."""
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
            raise BadRow("unknown part of a message", str(part.get("type"))[:40])
    return "\n".join(filter(None, parts))
