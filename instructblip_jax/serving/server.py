"""uvicorn as this server runs it: a port that is bound before compiling, clients that are waited for only so long, and
SIGTERM, which finishes what is running."""

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
"""Seconds in which a request's head must arrive."""
CONNECTIONS = 1024
DRAIN_SECONDS = 60
"""Seconds that SIGTERM gives to the requests that are running."""


class Connection(H11Protocol):
    """A connection that is closed when it holds half a request for too long, or does not take its last answer."""

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
        """SIGTERM and SIGINT end the server; it does not raise them again, so that the command exits with 0."""
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
        """Take no more requests, finish those that are there, and return from `serve`."""
        self._face.stopping = self.should_exit = True

    async def _wait_tasks_to_complete(self) -> None:
        await super()._wait_tasks_to_complete()
        self.finished = not self.force_exit


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, which nobody can reach before the server listens. Raises OSError naming the address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return made


def run(face: Face, place: socket.socket) -> bool:
    """Serve until a signal ends it; True if every request was answered."""
    server = Server(face)
    face.engine.start()
    asyncio.run(server.serve([place]))
    ended = face.engine.stop(1.0 if server.finished else 0.0)
    face.close()
    return server.finished and ended
