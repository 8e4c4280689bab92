"""OpenAI's chat completions: validation of a request, field by field, and the form of responses."""

import dataclasses
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from instructblip_jax.processors.base import MARK, BaseProcessor
from instructblip_jax.serving.engine import Token, Wanted
from instructblip_jax.serving.errors import Refusal, wrong
from instructblip_jax.serving.limits import Limits
from instructblip_jax.serving.media_parts import Piece, files, pieces, text
from instructblip_jax.serving.prompts import File, Turns
from instructblip_jax.serving.slots import MOST_TOP

STOPS, STOP_CHARACTERS = 4, 200
LEAST_TEMPERATURE = 1e-4
"""Temperatures below this decode greedily."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
}
"""Unsupported fields that would change an answer -> the values, besides null, at which they have no effect."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A validated chat request. The last turn's answer is None."""

    turns: Turns
    files: Sequence[File]
    wanted: Wanted
    stream: bool
    usage: bool
    logprobs: bool


def question(body: Mapping[str, Any], processor: BaseProcessor, limits: Limits) -> Question:
    """A request's body -> the validated request. Raises `Refusal` naming the field."""
    for name, neutral in NEUTRAL.items():
        if body.get(name) is not None and body[name] not in neutral:
            raise wrong(f"{name} is not supported", name, "unsupported_parameter")
    turns, media = conversation(body.get("messages"), processor, limits)
    stream = flag(body, "stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict) or (options and not stream):
        raise wrong("stream_options must be an object, and needs stream", "stream_options")
    logprobs = flag(body, "logprobs")
    top = whole(body, "top_logprobs", 0, MOST_TOP, 0)
    if top and not logprobs:
        raise wrong("top_logprobs needs logprobs", "top_logprobs")
    if "max_tokens" in body and "max_completion_tokens" in body and body["max_tokens"] is not None:
        raise wrong("give max_tokens or max_completion_tokens, not both", "max_tokens")
    name = "max_tokens" if body.get("max_tokens") is not None else "max_completion_tokens"
    count = whole(body, "n", 1, limits.rows, 1)
    seed = whole(body, "seed", -(2**63), 2**64, None)
    top_p = number(body, "top_p", 0, 1, 1.0)
    draws = count > 1 or seed is not None or top_p < 1
    temperature = number(body, "temperature", 0, 2, 1.0 if draws else 0.0)
    wanted = Wanted(
        most=whole(body, name, 1, limits.max_tokens, limits.max_tokens),
        count=count,
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_p=max(top_p, 1e-6),
        seed=secrets.randbits(32) if seed is None else seed % 2**32,
        stops=_stops(body.get("stop")),
        top=top,
    )
    return Question(turns, media, wanted, stream, flag(options, "include_usage"), logprobs)


def conversation(messages: Any, processor: BaseProcessor, limits: Limits) -> tuple[Turns, list[File]]:
    """The turns of a request's messages, and their media. Raises `Refusal` naming the field."""
    if not isinstance(messages, list) or not messages:
        raise wrong("a list of messages is needed", "messages")
    system: list[str] = []
    said: list[tuple[str, list[Piece], str]] = []
    for n, message in enumerate(messages):
        param = f"messages[{n}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user", "assistant"):
            raise wrong("role must be system, developer, user or assistant", f"{param}.role")
        parts = pieces(message.get("content"), f"{param}.content")
        if role != "user" and files(parts):
            raise wrong("only a user message may contain media", f"{param}.content")
        if role in ("system", "developer"):
            if said:
                raise wrong("a system message must be the first", f"{param}.role")
            system += [part for part in parts if isinstance(part, str)]
            continue
        if role == ("assistant" if len(said) % 2 == 0 else "user"):
            raise wrong("user and assistant messages must alternate, beginning with the user", f"{param}.role")
        said.append((role, parts, param))
    if len(said) % 2 == 0:
        raise wrong("the last message must have the role user", "messages")
    if len(said) > 1 and not processor.converses:
        raise wrong("this model answers one message; it has no conversations", "messages", "unsupported_value")
    for _, parts, param in said[1:]:
        if files(parts):
            raise wrong("this model takes media in the first message of a conversation", f"{param}.content")
    media = files(said[0][1])
    _check_media(media, processor, limits)
    texts = [_text(parts, processor) for _, parts, _ in said]
    texts[0] = "\n".join([*system, texts[0]] if texts[0] else system)
    answers = [*texts[1::2], None]
    return list(zip(texts[::2], answers, strict=True)), media


def _check_media(media: Sequence[File], processor: BaseProcessor, limits: Limits) -> None:
    """Raise `Refusal` for media that the model does not accept, too many of them, or missing media."""
    reads = processor.modalities
    for file in media:
        if file.modality not in reads:
            raise wrong(f"this model reads {', '.join(reads)}", file.param, "unsupported_value")
    for name in reads:
        most = limits.most(processor, name)
        of_it = [file for file in media if file.modality == name]
        if len(of_it) > most:
            raise wrong(f"{len(of_it)} of {name}; a request may have {most}", of_it[most].param, "too_many_media")
    if not processor.several and len(media) != 1:
        raise wrong(f"this model needs one {' or '.join(reads)} per request, not {len(media)}", "messages")


def _text(parts: Sequence[Piece], processor: BaseProcessor) -> str:
    """The text of a message. If text continues after an image, and the system accepts interleaved images, a mark takes
    the place of each image; otherwise the system's prompt form decides where images are placed."""
    texts = [n for n, part in enumerate(parts) if isinstance(part, str)]
    among = any(isinstance(part, File) for part in parts[texts[0] : texts[-1]]) if texts else False
    if among and processor.several and not processor.converses and set(processor.modalities) == {"image"}:
        return "".join(part if isinstance(part, str) else MARK for part in parts)
    return "\n".join(part for part in parts if isinstance(part, str))


def _stops(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or len(stops) > STOPS:
        raise wrong(f"stop must be a string, or a list of up to {STOPS} strings", "stop")
    for n, stop in enumerate(stops):
        if not text(stop, f"stop[{n}]") or len(stop) > STOP_CHARACTERS:
            raise wrong(f"a stop text must have 1 to {STOP_CHARACTERS} characters", f"stop[{n}]")
    return tuple(stops)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A boolean field; false if it is absent or null. Raises `Refusal` for another type."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(f"{name} must be true or false", name)
    return bool(value)


def whole(body: Mapping[str, Any], name: str, least: int, most: int, absent: Any) -> Any:
    """An integer field. Raises `Refusal` for a value of another type or out of range."""
    value = body.get(name)
    if value is None:
        return absent
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise wrong(f"{name} must be an integer from {least} to {most}", name)
    return value


def number(body: Mapping[str, Any], name: str, least: float, most: float, absent: float) -> float:
    """A numeric field. Raises `Refusal` for a value of another type or out of range."""
    value = body.get(name)
    if value is None:
        return absent
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise wrong(f"{name} must be a number from {least} to {most}", name)
    return float(value)


class Reply:
    """The answers to a request as they are generated, in OpenAI's formats."""

    def __init__(self, model: str, asked: Question, prompt_tokens: int, processor: BaseProcessor):
        self.asked, self._processor = asked, processor
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._prompt_tokens = prompt_tokens
        self._written = 0
        count = asked.wanted.count
        self._texts, self._finish = [""] * count, [None] * count  # type: list[str], list[str | None]
        self._logprobs: list[list[dict]] = [[] for _ in range(count)]

    @property
    def done(self) -> bool:
        """True once all answers have ended."""
        return all(self._finish)

    def add(self, token: Token) -> None:
        """Add a token to an answer."""
        self._written += 1
        self._texts[token.choice] += token.piece
        self._finish[token.choice] = token.finish
        if self.asked.logprobs and token.id is not None:
            self._logprobs[token.choice].append(self._logprob(token))

    def whole(self) -> dict[str, Any]:
        """The response of a request that does not stream."""
        choices = [
            {
                "index": n,
                "message": {"role": "assistant", "content": said, "refusal": None},
                "finish_reason": finish,
                "logprobs": {"content": logprobs, "refusal": None} if self.asked.logprobs else None,
            }
            for n, (said, finish, logprobs) in enumerate(zip(self._texts, self._finish, self._logprobs, strict=True))
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self.usage()}

    def opening(self) -> list[dict[str, Any]]:
        """The first chunk of each answer of a stream."""
        return [self._chunk(n, {"role": "assistant", "content": ""}) for n in range(self.asked.wanted.count)]

    def chunks(self, token: Token) -> list[dict[str, Any]]:
        """The chunks of a stream for the token that was just added."""
        found = []
        logprobs = None
        if self.asked.logprobs and token.id is not None:
            logprobs = {"content": self._logprobs[token.choice][-1:], "refusal": None}
        if token.piece or logprobs:
            found.append(self._chunk(token.choice, {"content": token.piece}, logprobs=logprobs))
        if token.finish:
            found.append(self._chunk(token.choice, {}, token.finish))
        return found

    def closing(self) -> list[dict[str, Any]]:
        """The chunks after the last answer: the usage, if it was requested."""
        if not self.asked.usage:
            return []
        return [{**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self.usage()}]

    def usage(self) -> dict[str, int]:
        """Token counts of the prompt and of all answers."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._written,
            "total_tokens": self._prompt_tokens + self._written,
        }

    def _chunk(
        self, choice: int, delta: dict, finish: str | None = None, logprobs: dict | None = None
    ) -> dict[str, Any]:
        one = {"index": choice, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        more = {"usage": None} if self.asked.usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [one], **more}

    def _logprob(self, token: Token) -> dict[str, Any]:
        assert token.id is not None
        return {
            **self._named(token.id, token.log_probability),
            "top_logprobs": [self._named(*one) for one in token.top],
        }

    def _named(self, number: int, value: float) -> dict[str, Any]:
        said = self._processor.tokenizer.decode([number])
        return {"token": said, "logprob": max(value, -9999.0), "bytes": list(said.encode())}


def check_model(body: Mapping[str, Any], name: str) -> None:
    """Raise `Refusal` unless the request names the served model."""
    asked = body.get("model")
    if not isinstance(asked, str):
        raise wrong("model is needed", "model")
    if asked != name:
        raise Refusal(404, f"there is no model {asked[:100]!r}; this server has {name!r}", "model", "model_not_found")
