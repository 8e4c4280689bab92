"""Bounds of a request, checked while it is read."""

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
"""Seconds in which the next piece of a body must arrive."""
BODIES = 16
"""Bodies of the largest size whose bytes may be held at the same time; more of them answer 429."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that a request may ask for."""

    max_tokens: int
    max_prompt: int
    rows: int
    queue: int
    pictures: int = 8
    bytes: int = 20_000_000

    def most(self, processor: BaseProcessor, modality: str) -> int:
        """The most media of a modality that a request may show."""
        return self.pictures if processor.several and modality == "image" else 1


class Budget:
    """Bytes of all requests that are held at the same time."""

    def __init__(self, most: int):
        self._left = most

    @contextlib.contextmanager
    def hold(self) -> Iterator["Held"]:
        """Bytes of one request; they are given back at the end."""
        held = Held(self)
        try:
            yield held
        finally:
            self._left += held.bytes

    def take(self, count: int) -> None:
        """Raises `Refusal` with status 429 if there are not so many left."""
        if count > self._left:
            raise Refusal(429, "too many large requests at once; try again", code="busy")
        self._left -= count


class Held:
    """See `Budget.hold`."""

    def __init__(self, budget: Budget):
        self._budget, self.bytes = budget, 0

    def add(self, count: int) -> None:
        """Hold more bytes. Raises `Refusal` as `Budget.take` does."""
        self._budget.take(count)
        self.bytes += count


async def body(request: Request, most: int, held: Held) -> Any:
    """The JSON of a request's body. Raises `Refusal`: 413 for one of more than ``most`` bytes, which is not read to its
    end; 408 for one that does not arrive; 400 for anything but an object of JSON."""
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
    """Raise `Refusal` with status 401 unless the request brings the token, if there is one."""
    if token is None:
        return
    given = request.headers.get("authorization", "")
    scheme, _, value = given.partition(" ")
    same = hmac.compare_digest(value.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not same:
        raise Refusal(401, "this server needs a token: Authorization: Bearer TOKEN", code="invalid_api_key")


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most:,} bytes", code="too_large")
