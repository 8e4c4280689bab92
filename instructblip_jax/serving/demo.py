"""The routes that only the page uses: the model's abilities, candidate likelihoods, attention maps."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from instructblip_jax import looking
from instructblip_jax.comparing import cosines
from instructblip_jax.processors.image import open_image
from instructblip_jax.serving import chat, limits
from instructblip_jax.serving.engine import CANDIDATE_TOKENS, CANDIDATES
from instructblip_jax.serving.errors import wrong
from instructblip_jax.serving.face import Face, until_gone
from instructblip_jax.serving.media_parts import files, pieces, text
from instructblip_jax.serving.prompts import File, read_medium

ACCEPTED = {
    "image": "image/png,image/jpeg,image/webp,image/gif",
    "video": "video/mp4,video/webm,video/x-matroska,.avi",
    "audio": "audio/wav,audio/flac,audio/mpeg",
    "pc": ".ply,.npy,.off,.obj",
}
"""Modality -> the file types that the page accepts."""


async def about(request: Request) -> Response:
    """GET /demo/about."""
    face: Face = request.app.state.face
    model, bounds = face.engine.model, face.limits
    does = ["write", "rank"] if model.has("prefill") else []
    does += ["look"] if face.engine.looks else []
    does += ["embed", "match"] if face.comparer else []
    return JSONResponse(
        {
            "model": face.name,
            "system": face.system,
            "title": face.title,
            "does": does,
            "media": {
                name: {"most": bounds.most(face.processor, name), "accept": ACCEPTED[name]}
                for name in face.processor.modalities
            },
            "instructions": face.instructions,
            "example": face.example is not None,
            "limits": {
                "max_tokens": bounds.max_tokens,
                "bytes": bounds.bytes,
                "pictures": bounds.pictures,
                "candidates": CANDIDATES,
            },
        }
    )


async def example(request: Request) -> Response:
    """GET /demo/example.png."""
    if (content := request.app.state.face.example) is None:
        raise HTTPException(404)
    return Response(content, media_type="image/png")


async def rank(request: Request) -> Response:
    """POST /demo/rank."""
    face: Face = request.app.state.face
    with face.budget.hold() as held:
        body = await limits.body(request, face.limits.bytes, held)
        if not face.engine.model.has("prefill"):
            raise wrong("this model writes nothing", "model")
        given = body.get("candidates")
        if not isinstance(given, list) or not 0 < len(given) <= CANDIDATES:
            raise wrong(f"candidates must be a list of 1 to {CANDIDATES} texts", "candidates")
        tokens = []
        for n, candidate in enumerate(given):
            if not text(candidate, f"candidates[{n}]").strip():
                raise wrong("a candidate is empty", f"candidates[{n}]")
            tokens.append(face.processor.response(candidate))
            if len(tokens[-1]) > CANDIDATE_TOKENS:
                raise wrong(f"a candidate may have at most {CANDIDATE_TOKENS} tokens", f"candidates[{n}]")
        turns, media = chat.conversation(body.get("messages"), face.processor, face.limits)
        prompt = await until_gone(request, face.prompt(turns, media))
    engine = face.engine

    def ranked() -> np.ndarray:
        return engine.rank(engine.slots.widen(engine.reader.context(prompt)), tokens)

    scores = (await until_gone(request, face.call(ranked))).astype(np.float64)
    likely = np.exp(scores - scores.max())
    return JSONResponse(
        {"candidates": given, "log_likelihoods": scores.tolist(), "probabilities": (likely / likely.sum()).tolist()}
    )


async def look(request: Request) -> Response:
    """POST /demo/look."""
    face: Face = request.app.state.face
    with face.budget.hold() as held:
        body = await limits.body(request, face.limits.bytes, held)
        if not face.engine.looks:
            raise wrong("this model has no queries that attend to image patches", "model")
        said, pictures = _one_message(body)
        if len(pictures) != 1 or pictures[0].modality != "image":
            raise wrong("exactly one picture is needed", "messages[0].content")
        (file,) = pictures
        opened = await until_gone(request, face.read(lambda: _opened(file)))
    processor, engine = face.processor, face.engine
    try:
        count = processor.lengths(processor.encode(said))[0]
        if count > engine.text_length:
            raise wrong(f"the text has {count} tokens; this server accepts {engine.text_length}", "messages[0].content")
        found = await until_gone(request, face.call(lambda: engine.look(opened, said)))
    except ValueError as error:
        raise wrong(str(error), "messages") from error
    buffer = io.BytesIO()
    looking.seen(processor, opened)[0].save(buffer, "PNG")
    views = [{"name": name, "maps": maps.round(6).tolist()} for name, maps in found.items()]
    shown = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return JSONResponse({"views": views, "picture": shown})


async def match(request: Request) -> Response:
    """POST /demo/match."""
    face: Face = request.app.state.face
    with face.budget.hold() as held:
        body = await limits.body(request, face.limits.bytes, held)
        if (comparer := face.comparer) is None:
            raise wrong("this model does not compare pictures with texts", "model")
        said, given = _one_message(body)
        if not 0 < len(given) <= face.limits.pictures or any(file.modality != "image" for file in given):
            raise wrong(f"1 to {face.limits.pictures} pictures are needed beside the text", "messages[0].content")
        rows = comparer.read([said], "messages[0].content")
        shown = await until_gone(request, face.read(lambda: [read_medium(face.processor, file) for file in given]))

    def compared() -> tuple[np.ndarray, np.ndarray]:
        return cosines(comparer.pictures(shown), comparer.texts(rows)), comparer.match(shown, rows)

    similarity, probability = await until_gone(request, face.call(compared))
    return JSONResponse({"similarity": similarity.tolist(), "match": probability[:, 0].tolist()})


def _opened(file: File) -> Any:
    try:
        return open_image(file.content, file.param)
    except ValueError as error:
        raise wrong(str(error), file.param, "unusable_media") from error


def _one_message(body: Mapping[str, Any]) -> tuple[str, list[File]]:
    """The text and the media of a request's only message. Raises `Refusal`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], dict):
        raise wrong("a single user message is needed", "messages")
    parts = pieces(messages[0].get("content"), "messages[0].content")
    return "\n".join(part for part in parts if isinstance(part, str)), files(parts)
