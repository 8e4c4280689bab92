"""Requests of somebody who means harm, drawn by a seed: what is sent, and whether the server may answer it with 200."""

import json
import random

from serving_client import about, png, url

VALUES = (None, True, -1, 0, 1, 2, 10**9, 10**400, 1e308, "", "a", "\0", [], [[]], {}, {"a": 1}, "é" * 300, [None] * 50)
FIELDS = (
    *("messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed", "stop"),
    *("stream", "stream_options", "logprobs", "top_logprobs", "tools", "user", "response_format", "logit_bias"),
)
PATHS = ("/v1/chat/completions", "/v1/chat/completions", "/demo/rank", "/demo/look", "/demo/match", "/v1/embeddings")
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}


def sound(rng):
    """A request that is right, of the model "toy"."""
    content = about(rng.choice(("which digit is red ?", "describe the picture")), png(rng.randrange(9)))
    body = {"model": "toy", "messages": [{"role": "user", "content": content}], "max_tokens": rng.randrange(1, 9)}
    return body | {"candidates": ["1", "red"], "input": "a"}


def _broken_file(rng):
    data = bytearray(png(rng.randrange(9)))
    for _ in range(rng.randrange(1, 30)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(1, len(data) + 1)])


def request(seed):
    """One hostile request: path, body bytes, headers."""
    rng = random.Random(seed)
    path, body, headers = rng.choice(PATHS), sound(rng), {}
    for _ in range(rng.randrange(1, 3)):
        kind = rng.randrange(8)
        if kind == 0:
            body[rng.choice(FIELDS)] = rng.choice(VALUES)
        elif kind == 1:
            body["messages"] = rng.choice(VALUES)
        elif kind == 2:
            body["messages"] = [{"role": rng.choice(("user", "system", "x", None)), "content": rng.choice(VALUES)}]
        elif kind == 3:
            part = {"type": "image_url", "image_url": {"url": url(_broken_file(rng))}}
            body["messages"] = [{"role": "user", "content": [part, {"type": "text", "text": "describe"}]}]
        elif kind == 4:
            link = rng.choice(("http://localhost/", "file:///etc/passwd", "data:,a", "data:image/png;base64,@", "//a"))
            body["messages"] = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": link}}]}]
        elif kind == 5:
            text = "".join(map(chr, (rng.choice((rng.randrange(32, 127), rng.randrange(0xD7FF))) for _ in range(400))))
            body["messages"] = [{"role": "user", "content": about(text[: rng.randrange(400)], png(0))}]
        elif kind == 6:
            body["messages"] = [{"role": "user", "content": [SOUND, rng.choice(VALUES), {"type": rng.choice(VALUES)}]}]
        else:
            body["candidates"] = body["input"] = rng.choice(VALUES)
    data = json.dumps(body).encode()
    if rng.random() < 0.15:
        data = data[: rng.randrange(len(data))]
    if rng.random() < 0.1:
        place = rng.randrange(max(len(data), 1))
        data = data[:place] + bytes(rng.randrange(256) for _ in range(4)) + data[place:]
    if rng.random() < 0.05:
        headers["Content-Type"] = "text/html"
    return path, data, headers
