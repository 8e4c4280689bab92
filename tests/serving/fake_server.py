"""A stand-in for `instructblip serve`: the pages of the real one, and canned answers in its form, refusals too.

A text decides what happens: "busy", "large", "closed", "odd" and "broken" are refused with 429, 413, 503, 400 and 500;
"slow" is answered a word every 0.2 s, "silent" with nothing.
"""

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).parents[2] / "instructblip_jax" / "serving" / "page"
POLICY = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:"
PICTURES = "image/png,image/jpeg,image/webp,image/gif"
QUERIES, GRID = 32, 6
ASKED: list[dict] = []
"""The bodies of all requests, in their order."""
REFUSALS = {
    "busy": (429, "8 requests wait already"),
    "large": (413, "the request has more than 20,000,000 bytes"),
    "closed": (503, "shutting down"),
    "odd": (400, "messages[0].content[0]: not a picture"),
    "broken": (500, "internal error"),
}
KINDS = {
    "writes": {
        "does": ["write", "rank", "look"],
        "media": {"image": {"most": 1, "accept": PICTURES}},
        "example": True,
    },
    "compares": {
        "does": ["embed", "match"],
        "media": {"image": {"most": 1, "accept": PICTURES}},
        "example": False,
    },
    "senses": {
        "does": ["write"],
        "media": {
            "image": {"most": 1, "accept": PICTURES},
            "audio": {"most": 1, "accept": "audio/wav,audio/x-wav,.wav"},
            "pc": {"most": 1, "accept": ".npy"},
        },
        "example": False,
    },
}


def text_of(messages: list[dict]) -> str:
    return " ".join(part["text"] for part in messages[0]["content"] if part["type"] == "text")


def refusal(text: str) -> Response | None:
    for word, (status, message) in REFUSALS.items():
        if word in text:
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
            return JSONResponse({"error": error}, status, {"Retry-After": "2"} if status == 429 else None)
    return None


def picture() -> bytes:
    x, y = np.meshgrid(np.arange(48), np.arange(48))
    pixels = np.stack([4 * x, 4 * y, np.full_like(x, 90)], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def maps(seed: int) -> list:
    weights = np.random.default_rng(seed).random((QUERIES, GRID, GRID)) ** 6
    return (weights / weights.sum((1, 2), keepdims=True)).tolist()


def server(kind: str, token: str = "") -> Starlette:
    facts = KINDS[kind] | {
        "model": "fake",
        "system": "fake",
        "title": "A fake model",
        "instructions": [
            {"task": "count", "text": "how many digits are there ?"},
            {"task": "where", "text": "where is the 3 ?"},
        ],
        "limits": {"max_tokens": 64, "bytes": 20_000_000, "pictures": 8, "candidates": 16},
    }

    def guarded(answer):
        async def handler(request: Request) -> Response:
            if token and request.headers.get("authorization") != f"Bearer {token}":
                return JSONResponse({"error": {"message": "wrong token", "type": "authentication_error"}}, 401)
            if request.method == "GET":
                return await answer()
            body = await request.json()
            ASKED.append(body)
            return refusal(text_of(body["messages"])) or await answer(body)

        return handler

    async def about():
        return JSONResponse(facts)

    async def example():
        return Response(picture(), media_type="image/png")

    async def chat(body: dict):
        kinds = ", ".join(part["type"] for part in body["messages"][0]["content"])
        answers = {"slow": [f"{n} " for n in range(100)], "silent": []}
        words = next(
            (answers[word] for word in answers if word in text_of(body["messages"])), [kinds, " were", " sent"]
        )

        async def chunks():
            for word in words:
                yield f"data: {json.dumps({'choices': [{'delta': {'content': word}}]})}\r\n\r\n"
                await asyncio.sleep(0.2 if len(words) > 3 else 0)
            yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': len(words)}})}\r\n\r\n"
            yield "data: [DONE]\r\n\r\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")

    async def rank(body: dict):
        scores = -np.arange(1, len(body["candidates"]) + 1, dtype=float)
        shares = np.exp(scores) / np.exp(scores).sum()
        found = {"log_likelihoods": scores.tolist(), "probabilities": shares.tolist()}
        return JSONResponse({"candidates": body["candidates"], **found})

    async def look(body: dict):
        seed = sum(text_of(body["messages"]).encode())
        views = [
            {"name": "with the instruction", "maps": maps(seed)},
            {"name": "without the instruction", "maps": maps(0)},
        ]
        return JSONResponse(
            {"views": views, "picture": f"data:image/png;base64,{base64.b64encode(picture()).decode()}"}
        )

    async def match(body: dict):
        pictures = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
        similarity = 1 / (1 + len(text_of(body["messages"])))
        return JSONResponse({"similarity": [[similarity]] * len(pictures), "match": [similarity] * len(pictures)})

    async def page(_: Request):
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})

    return Starlette(
        routes=[
            Route("/", page),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/demo/about", guarded(about)),
            Route("/demo/example.png", guarded(example)),
            Route("/demo/rank", guarded(rank), methods=["POST"]),
            Route("/demo/look", guarded(look), methods=["POST"]),
            Route("/demo/match", guarded(match), methods=["POST"]),
            Route("/v1/chat/completions", guarded(chat), methods=["POST"]),
        ]
    )
