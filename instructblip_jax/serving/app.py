"""The HTTP application: routes, errors, tokens, streams; see docs/serve.md."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from instructblip_jax.serving import chat, demo, limits
from instructblip_jax.serving.embeddings import embeddings
from instructblip_jax.serving.engine import Ticket, Token
from instructblip_jax.serving.errors import Refusal
from instructblip_jax.serving.face import Face, until_gone
from instructblip_jax.serving.prompts import Prompt

PAGE = Path(__file__).parent / "page"
UNREAD = (401, 408, 413)
"""Status codes after which the connection is closed, because the request's body was not read to its end."""
POLICY = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: data:; frame-ancestors 'none'"


class Answering:
    """A request in the engine, and its tokens for an asyncio handler. Leaving the context frees the request's rows."""

    def __init__(self, face: Face, prompt: Prompt, asked: chat.Question):
        self._face, self._loop = face, asyncio.get_running_loop()
        self._tokens: asyncio.Queue[Token | BaseException] = asyncio.Queue()
        self._ticket = face.engine.submit(prompt, asked.wanted, self._deliver)

    def _deliver(self, _: Ticket, token: Token | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop ended before the answer
            self._loop.call_soon_threadsafe(self._tokens.put_nowait, token)

    async def next(self) -> Token:
        """The next token of any of the answers. Raises `Refusal` with status 500 if the engine failed."""
        token = await self._tokens.get()
        if isinstance(token, Refusal):
            raise token
        if isinstance(token, BaseException):
            raise Refusal(500, f"the model failed: {token}") from token
        return token

    def leave(self) -> None:
        """Stop generating for this request."""
        if not self._ticket.done:
            self._face.metrics.add("hang_ups")
            self._face.engine.cancel(self._ticket)


async def completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    face: Face = request.app.state.face
    with face.budget.hold() as held:
        body = await limits.body(request, face.limits.bytes, held)
        chat.check_model(body, face.name)
        if not face.engine.model.has("prefill"):
            raise Refusal(400, "this model generates no text; use /v1/embeddings or /demo/match", "model")
        asked = chat.question(body, face.processor, face.limits)
        del body
        prompt = await until_gone(request, face.prompt(asked.turns, asked.files))
    reply = chat.Reply(face.name, asked, prompt.tokens, face.processor)
    answering = Answering(face, prompt, asked)
    if asked.stream:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(answering, reply), media_type="text/event-stream", headers=headers)

    async def collected() -> Response:
        while not reply.done:
            reply.add(await answering.next())
        return JSONResponse(reply.whole())

    try:
        return await until_gone(request, collected())
    finally:
        answering.leave()


async def _events(answering: Answering, reply: chat.Reply) -> AsyncIterator[bytes]:
    """The chunks of a stream as server-sent events; an error ends it."""
    try:
        for chunk in reply.opening():
            yield _event(chunk)
        while not reply.done:
            token = await answering.next()
            reply.add(token)
            for chunk in reply.chunks(token):
                yield _event(chunk)
        for chunk in reply.closing():
            yield _event(chunk)
        yield b"data: [DONE]\n\n"
    except Refusal as error:
        yield _event(error.body())
    finally:
        answering.leave()


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def models(request: Request) -> Response:
    """GET /v1/models, and GET /v1/models/NAME."""
    face: Face = request.app.state.face
    one = {"id": face.name, "object": "model", "created": face.created, "owned_by": "instructblip_jax"}
    if (name := request.path_params.get("name")) is None:
        return JSONResponse({"object": "list", "data": [one]})
    chat.check_model({"model": name}, face.name)
    return JSONResponse(one)


async def health(request: Request) -> Response:
    """GET /health: 200 while requests are accepted. The port opens once all programs are compiled."""
    stopping = request.app.state.face.stopping
    return JSONResponse({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    return Response(request.app.state.face.metrics.text(), media_type="text/plain; version=0.0.4")


async def page(request: Request) -> Response:
    """GET / and the files of the page."""
    name = request.path_params.get("name", "index.html")
    path = PAGE / name
    if path.parent != PAGE or not path.is_file():
        raise HTTPException(404)
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return FileResponse(path, headers=headers)


def _refused(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        said = {404: "there is nothing at this address", 405: "this address does not take this method"}
        error = Refusal(error.status_code, said.get(error.status_code, error.detail))
    elif not isinstance(error, Refusal):
        error = Refusal(500, f"the server failed: {type(error).__name__}")
    headers = {"Retry-After": str(limits.RETRY_SECONDS)} if error.status == 429 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in UNREAD:
        headers["Connection"] = "close"
    return JSONResponse(error.body(), error.status, headers=headers)


class Guard:
    """ASGI middleware: authorization, a time limit for clients that do not read, and the count of responses."""

    def __init__(self, app: Any, face: Face):
        self.app, self.face = app, face

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 499

        async def send_in_time(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await asyncio.wait_for(send(message), limits.BODY_SECONDS)

        try:
            request = Request(scope)
            if scope["path"].startswith(("/v1/", "/demo/")):
                try:
                    limits.check_token(request, self.face.token)
                    if self.face.stopping:
                        raise Refusal(503, "the server is stopping")
                except Refusal as error:
                    await _refused(request, error)(scope, receive, send_in_time)
                    return
            await self.app(scope, receive, send_in_time)
        finally:
            route = scope.get("route")
            self.face.metrics.answered(route.path if route else "other", status)


def make(face: Face) -> Any:
    """The ASGI application."""
    routes = [
        Route("/", page),
        Route("/page/{name}", page),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", models),
        Route("/v1/chat/completions", completions, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/demo/about", demo.about),
        Route("/demo/example.png", demo.example),
        Route("/demo/rank", demo.rank, methods=["POST"]),
        Route("/demo/look", demo.look, methods=["POST"]),
        Route("/demo/match", demo.match, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
    handlers: dict[Any, Any] = {Refusal: _refused, HTTPException: _refused, Exception: _refused}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.face = face
    return Guard(app, face)
