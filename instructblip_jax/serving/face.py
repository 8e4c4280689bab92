"""State that all routes share: the engine, the limits, the media threads, and the handling of disconnected clients."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from starlette.requests import Request

from instructblip_jax.serving import limits
from instructblip_jax.serving.engine import Engine
from instructblip_jax.serving.errors import Refusal
from instructblip_jax.serving.limits import Limits
from instructblip_jax.serving.prompts import File, Prompt, Turns, read_prompt

READERS = 2
"""Number of threads that decode media; each may hold an image of 50 megapixels."""


class Face:
    """The engine, the model's name, the limits, and the threads that decode media."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        bounds: Limits,
        *,
        system: str,
        title: str,
        token: str | None = None,
        instructions: Sequence[Mapping[str, str]] = (),
        example: bytes | None = None,
    ):
        """``system``: config.json's model_type; ``title``: its usual name. ``instructions`` and ``example``, a PNG
        file: the samples that the page offers."""
        self.engine, self.name, self.limits, self.token = engine, name, bounds, token
        self.system, self.title, self.instructions, self.example = system, title, instructions, example
        self.processor, self.metrics, self.comparer = engine.processor, engine.metrics, engine.comparer
        self.created = int(time.time())
        self.stopping = False
        self.budget = limits.Budget(limits.BODIES * bounds.bytes)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._reading = 0

    async def read(self, function: Callable[[], Any]) -> Any:
        """Run a function in a thread of the pool. Raises `Refusal` with status 429 if too many calls are waiting."""
        if self._reading >= self.limits.queue + self.limits.rows:
            raise Refusal(429, "too many requests at once; try again", code="busy")
        self._reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, function)
        finally:
            self._reading -= 1

    async def prompt(self, turns: Turns, files: Sequence[File]) -> Prompt:
        """Read a prompt in a thread of the pool."""
        return await self.read(lambda: read_prompt(self.processor, self.engine.forms, turns, files))

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the engine's thread."""
        done: Future = self.engine.call(function)
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)


async def until_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of ``work``, which is cancelled if the client disconnects (status 499, which no client sees)."""
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client went away")
        return task.result()
    finally:
        for one in (task, watch):
            if not one.done():
                one.cancel()
