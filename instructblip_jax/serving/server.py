"""The uvicorn server: the port is bound before compilation, slow clients time out, and SIGTERM finishes running
requests."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from instructblip_jax.serving.app import Face, make

HEAD_SECONDS = 15
"""Seconds within which a request's header must arrive."""
CONNECTIONS = 1024
DRAIN_SECONDS = 60
"""Seconds after SIGTERM for running requests to finish."""


class Connection(H11Protocol):
    """A connection that is closed if a request stays incomplete for too long, or the client does not read the
    response."""

    _watch: asyncio.TimerHandle | None = None
    _half = False

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._watch:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self._watch = self.loop.call_later(HEAD_SECONDS, self._look)

    def _look(self) -> None:
        waits = (self.cycle is None or self.cycle.response_complete) and self.timeout_keep_alive_task is None
        if self.transport.is_closing() or (waits and self._half):
            self.transport.abort()
            return
        self._half = waits
        self._look_again()


class Server(uvicorn.Server):
    """See the module."""

    def __init__(self, face: Face):
        super().__init__(
            uvicorn.Config(
                make(face),
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self._face = face
        self.finished = False
        """True if every request was answered before the server ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop the server. They are not raised again, so that the command exits with 0."""
        names = (signal.SIGTERM, signal.SIGINT)
        try:
            before = {name: signal.signal(name, self._end) for name in names}
        except ValueError:  # not the main thread, as in tests
            before = {}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _end(self, *_: Any) -> None:
        self.force_exit = self.should_exit  # a second signal does not wait
        self.end()

    def end(self) -> None:
        """Accept no more requests, finish the current ones, and return from `serve`."""
        self._face.stopping = self.should_exit = True

    async def _wait_tasks_to_complete(self) -> None:
        await super()._wait_tasks_to_complete()
        self.finished = not self.force_exit


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address; clients cannot connect before the server listens. Raises OSError naming the
    address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return made


def run(face: Face, place: socket.socket) -> bool:
    """Serve until a signal arrives; True if every request was answered."""
    server = Server(face)
    face.engine.start()
    asyncio.run(server.serve([place]))
    ended = face.engine.stop(1.0 if server.finished else 0.0)
    face.close()
    return server.finished and ended
