"""OpenAI's embeddings API, for texts and images, by systems that compare them."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from instructblip_jax.serving import chat, limits
from instructblip_jax.serving.errors import wrong
from instructblip_jax.serving.face import Face, until_gone
from instructblip_jax.serving.media_parts import Piece, at_url, pieces, text
from instructblip_jax.serving.prompts import File, read_medium

MOST = 64
"""Maximum number of texts and images per request."""


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings: a text, a list of texts, images as {"image": "data:..."}, or lists of one content part."""
    face: Face = request.app.state.face
    with face.budget.hold() as held:
        body = await limits.body(request, face.limits.bytes, held)
        chat.check_model(body, face.name)
        comparer = face.comparer
        if comparer is None:
            raise wrong("this model generates text and has no embeddings; use /v1/chat/completions", "model")
        form = body.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            raise wrong("encoding_format must be float or base64", "encoding_format")
        if body.get("dimensions") is not None:
            raise wrong("dimensions is not supported", "dimensions", "unsupported_parameter")
        items = _items(body.get("input"))
        texts = [item for item in items if isinstance(item, str)]
        files = [item for item in items if isinstance(item, File)]
        del body
        rows = comparer.read(texts, "input") if texts else []
        shown = await until_gone(request, face.read(lambda: [read_medium(face.processor, file) for file in files]))

    def found() -> tuple[Iterable[np.ndarray], Iterable[np.ndarray]]:
        return comparer.texts(rows) if rows else (), comparer.pictures(shown) if shown else ()

    of_texts, of_pictures = (iter(part) for part in await until_gone(request, face.call(found)))
    vectors = [next(of_texts if isinstance(item, str) else of_pictures) for item in items]
    tokens = sum(comparer.processor.lengths(row)[0] for row in rows)
    data = [
        {"object": "embedding", "index": n, "embedding": _written(vector, form)} for n, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": face.name, "usage": usage})


def _written(vector: np.ndarray, form: str) -> Any:
    """A vector, or an image's vectors concatenated, as numbers or as base64 of little-endian float32."""
    flat = vector.reshape(-1).astype("<f4")
    return flat.tolist() if form == "float" else base64.b64encode(flat.tobytes()).decode()


def _items(given: Any) -> list[Piece]:
    """The texts and images of "input". Raises `Refusal` naming the item."""
    if isinstance(given, str):
        return [text(given, "input")]
    if not isinstance(given, list) or not 0 < len(given) <= MOST:
        raise wrong(f"input must be a text, or a list of 1 to {MOST} texts and pictures", "input")
    return [_item(item, f"input[{n}]") for n, item in enumerate(given)]


def _item(item: Any, param: str) -> Piece:
    if isinstance(item, str):
        return text(item, param)
    if isinstance(item, Mapping) and "image" in item:
        return File("image", at_url(item["image"], f"{param}.image"), f"{param}.image")
    if not isinstance(item, list) or len(item) != 1 or not isinstance(item[0], Mapping):
        raise wrong('a text, {"image": "data:..."} or a list of one content part is needed', param)
    (piece,) = pieces(item, param)
    if isinstance(piece, File) and piece.modality != "image":
        raise wrong("this model compares pictures with texts", param)
    return piece
