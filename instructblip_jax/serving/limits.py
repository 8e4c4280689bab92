"""Limits of a request, checked while it is read."""

import asyncio
import contextlib
import dataclasses
import hmac
import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import ClientDisconnect, Request

from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.serving.errors import Refusal, wrong

RETRY_SECONDS = 1
BODY_SECONDS = 30
"""Seconds within which the next piece of a body must arrive."""
BODIES = 16
"""Number of bodies of the largest size that may be in memory at the same time; further ones get 429."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a request."""

    max_tokens: int
    max_prompt: int
    rows: int
    queue: int
    pictures: int = 8
    bytes: int = 20_000_000

    def most(self, processor: BaseProcessor, modality: str) -> int:
        """Maximum number of media of a modality per request."""
        return self.pictures if processor.several and modality == "image" else 1


class Budget:
    """The bytes of all request bodies in memory."""

    def __init__(self, most: int):
        self._left = most

    @contextlib.contextmanager
    def hold(self) -> Iterator["Held"]:
        """The bytes of one request, released at the end."""
        held = Held(self)
        try:
            yield held
        finally:
            self._left += held.bytes

    def take(self, count: int) -> None:
        """Reserve bytes. Raises `Refusal` with status 429 if too few are left."""
        if count > self._left:
            raise Refusal(429, "too many large requests at once; try again", code="busy")
        self._left -= count


class Held:
    """See `Budget.hold`."""

    def __init__(self, budget: Budget):
        self._budget, self.bytes = budget, 0

    def add(self, count: int) -> None:
        """Reserve more bytes. Raises `Refusal` like `Budget.take`."""
        self._budget.take(count)
        self.bytes += count


async def body(request: Request, most: int, held: Held) -> Any:
    """The JSON of a request's body. Raises `Refusal`: 413 for a body of more than ``most`` bytes, which is not read to
    its end; 408 for one that does not arrive in time; 400 for anything but a JSON object."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise wrong("Content-Type must be application/json")
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise _too_large(most)
    data, pieces = bytearray(), aiter(request.stream())
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), BODY_SECONDS)
        except StopAsyncIteration:
            break
        except TimeoutError as error:
            raise Refusal(408, f"the body did not arrive within {BODY_SECONDS} seconds") from error
        except ClientDisconnect as error:
            raise Refusal(400, "the client went away") from error
        if len(data) + len(piece) > most:
            raise _too_large(most)
        held.add(len(piece))
        data += piece
    try:
        found = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise wrong(f"the body is not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise wrong(f"the body is not JSON ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise wrong("the body must be a JSON object")
    return found


def check_token(request: Request, token: str | None) -> None:
    """Raise `Refusal` with status 401 unless the request has the token, if the server requires one."""
    if token is None:
        return
    given = request.headers.get("authorization", "")
    scheme, _, value = given.partition(" ")
    same = hmac.compare_digest(value.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not same:
        raise Refusal(401, "this server requires a token: Authorization: Bearer TOKEN", code="invalid_api_key")


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most:,} bytes", code="too_large")
