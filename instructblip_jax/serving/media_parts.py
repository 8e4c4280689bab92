"""The parts of a message's content: texts, and media as data: URLs."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from instructblip_jax.serving.errors import wrong
from instructblip_jax.serving.prompts import File

URLS = {"image_url": "image", "video_url": "video", "pc_url": "pc"}
"""Type of a part -> its modality."""
AUDIO = "input_audio"
DATA = re.compile(r"data:[^,;]*(?:;[^,;]+)*?;base64,", re.IGNORECASE)

Piece = str | File


def pieces(content: Any, param: str) -> list[Piece]:
    """The parts of a message's content, in reading order. Raises `Refusal` naming the field."""
    if isinstance(content, str):
        return [text(content, param)]
    if not isinstance(content, list) or not content:
        raise wrong("a text or a list of parts is needed", param)
    return [_piece(part, f"{param}[{n}]") for n, part in enumerate(content)]


def text(given: Any, param: str) -> str:
    """A text. Raises `Refusal` for anything else, including an unpaired surrogate, which no tokenizer accepts."""
    if not isinstance(given, str):
        raise wrong("a text is needed", param)
    try:
        given.encode("utf-8")
    except UnicodeEncodeError as error:
        raise wrong("the text is not valid Unicode", param) from error
    return given


def _piece(part: Any, param: str) -> Piece:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return text(part.get("text"), f"{param}.text")
    if kind == AUDIO:
        found = _field(part, AUDIO, param)
        return File("audio", decoded(found.get("data"), f"{param}.{AUDIO}.data"), f"{param}.{AUDIO}")
    if isinstance(kind, str) and kind in URLS:
        found = _field(part, kind, param)
        return File(URLS[kind], at_url(found.get("url"), f"{param}.{kind}.url"), f"{param}.{kind}")
    raise wrong(f"type must be one of text, {', '.join(URLS)}, {AUDIO}", f"{param}.type")


def _field(part: Mapping[str, Any], name: str, param: str) -> Mapping[str, Any]:
    found = part.get(name)
    if not isinstance(found, dict):
        raise wrong("an object is needed", f"{param}.{name}")
    return found


def at_url(url: Any, param: str) -> bytes:
    """The bytes of a data: URL. Raises `Refusal` for any other: nothing is fetched."""
    if not isinstance(url, str) or not url:
        raise wrong("a data: URL is needed", param)
    if not url[:5].lower() == "data:":
        raise wrong("URLs are not fetched: send the file itself, as data:image/png;base64,...", param, "invalid_url")
    if not (head := DATA.match(url, 0, 200)):
        raise wrong("a data: URL must be base64: data:image/png;base64,...", param, "invalid_url")
    return decoded(url[head.end() :], param)


def decoded(data: Any, param: str) -> bytes:
    """The bytes of a base64 text. Raises `Refusal` for invalid base64."""
    if not isinstance(data, str) or not data:
        raise wrong("base64 is needed", param)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong(f"invalid base64 ({error})", param) from error


def files(parts: Sequence[Piece]) -> list[File]:
    """The media among parts, in reading order."""
    return [part for part in parts if isinstance(part, File)]
