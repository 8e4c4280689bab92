"""Requests that are refused: by which status, and naming which field; and what they leave behind, which is nothing."""

import http.client
import json
import socket
import struct
import threading
import time
import zlib

import pytest
from serving_client import about, png, url

from instructblip_jax.serving import limits, server

PICTURE = png(0)
CHAT = "/v1/chat/completions"
TEXT = "which digit is top-left ?"


def huge_png(width, height):
    """The head of a picture that is far larger than its file."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def with_url(text):
    return [{"type": "image_url", "image_url": {"url": text}}, {"type": "text", "text": TEXT}]


def request(**changes):
    body = {"model": "toy", "messages": [{"role": "user", "content": about(TEXT, PICTURE)}], "max_tokens": 2}
    return {key: value for key, value in (body | changes).items() if value != ...}


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


WRONG = {
    "no model": (request(model=...), 400, "model"),
    "another model": (request(model="gpt-4"), 404, "model"),
    "no messages": (request(messages=...), 400, "messages"),
    "messages is a text": (request(messages="a"), 400, "messages"),
    "a message is a number": (request(messages=[1]), 400, "messages[0].role"),
    "an unknown role": (request(messages=[{"role": "tool", "content": "a"}]), 400, "messages[0].role"),
    "the assistant begins": (request(messages=[{"role": "assistant", "content": "a"}]), 400, "messages[0].role"),
    "several turns": (
        request(
            messages=[
                {"role": "user", "content": about(TEXT, PICTURE)},
                {"role": "assistant", "content": "3"},
                {"role": "user", "content": "and now ?"},
            ]
        ),
        400,
        "messages",
    ),
    "no content": (request(**user(None)), 400, "messages[0].content"),
    "an empty text": (request(**user(about(" ", PICTURE))), 400, "messages"),
    "half a surrogate pair": (request(**user("\ud800")), 400, "messages[0].content"),
    "no picture": (request(**user(TEXT)), 400, "messages"),
    "two pictures": (request(**user(about(TEXT, PICTURE, PICTURE))), 400, "messages[0].content[1].image_url"),
    "an unknown part": (request(**user([{"type": "file"}])), 400, "messages[0].content[0].type"),
    "a sound": (
        request(**user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])),
        400,
        "messages[0].content[0].input_audio",
    ),
    "a URL": (request(**user(with_url("http://127.0.0.1/a.png"))), 400, "messages[0].content[0].image_url.url"),
    "a file's URL": (request(**user(with_url("file:///etc/passwd"))), 400, "messages[0].content[0].image_url.url"),
    "no base64": (request(**user(with_url("data:image/png;base64,?"))), 400, "messages[0].content[0].image_url.url"),
    "no picture file": (request(**user(with_url(url(b"GIF89a")))), 400, "messages[0].content[0].image_url"),
    "200 megapixels": (
        request(**user(with_url(url(huge_png(20_000, 10_000))))),
        400,
        "messages[0].content[0].image_url",
    ),
    "a long text": (request(**user(about("digit " * 500, PICTURE))), 400, "messages"),
    "no tokens": (request(max_tokens=0), 400, "max_tokens"),
    "many tokens": (request(max_tokens=10**9), 400, "max_tokens"),
    "tokens as a text": (request(max_tokens="9"), 400, "max_tokens"),
    "half a token": (request(max_tokens=..., max_completion_tokens=1.5), 400, "max_completion_tokens"),
    "heat": (request(temperature=2.1), 400, "temperature"),
    "no temperature": (request(temperature=float("nan")), 400, "temperature"),
    "top_p": (request(top_p=-1), 400, "top_p"),
    "more answers than rows": (request(n=5), 400, "n"),
    "five stops": (request(stop=list("abcde")), 400, "stop"),
    "an empty stop": (request(stop=""), 400, "stop[0]"),
    "many likeliest": (request(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    "likeliest alone": (request(top_logprobs=2), 400, "top_logprobs"),
    "tools": (request(tools=[{"type": "function"}]), 400, "tools"),
    "JSON wanted": (request(response_format={"type": "json_object"}), 400, "response_format"),
    "audio wanted": (request(modalities=["text", "audio"]), 400, "modalities"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named(digits, name):
    body, status, param = WRONG[name]
    got, said = digits.post(CHAT, body)
    assert (got, said["error"]["param"]) == (status, param), said
    assert said["error"]["message"]
    assert "Traceback" not in said["error"]["message"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        (b"[]", {}),
        (b"", {}),
        (b'{"model": "\xff"}', {}),
        (b"[" * 100_000, {}),
        (json.dumps(request()).encode(), {"Content-Type": "text/plain"}),
    ],
)
def test_a_body_that_is_no_json_object(digits, body, headers):
    status, _, said = digits.ask("POST", CHAT, body, **headers)
    assert status == 400
    assert json.loads(said)["error"]["type"] == "invalid_request_error"


def test_addresses_and_methods(digits):
    for method, path, status in (("GET", "/v1/no", 404), ("GET", CHAT, 405), ("GET", "/page/../app.py", 404)):
        got, _, said = digits.ask(method, path)
        assert (got, "error" in json.loads(said)) == (status, True)


def test_a_large_body_is_not_read(digits):
    """Neither one that says so, nor one that comes in pieces without end."""
    with socket.create_connection(("127.0.0.1", digits.port), timeout=20) as one:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {10**9}\r\n\r\n"
        one.sendall(head.encode())
        assert one.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", digits.port), timeout=20) as one:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        one.sendall(head.encode())
        sent, piece = 0, b"%x\r\n%s\r\n" % (2**20, b" " * 2**20)
        try:
            for _ in range(100):
                one.sendall(piece)
                sent += 2**20
        except OSError:
            pass  # the server has closed
        assert sent < 100 * 2**20


def test_half_a_request_disturbs_nobody(digits):
    with socket.create_connection(("127.0.0.1", digits.port)) as half:
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Le")
        with socket.create_connection(("127.0.0.1", digits.port)) as silent:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{{"
            silent.sendall(head.encode())
            assert digits.chat(about(TEXT, PICTURE))


def test_what_does_not_arrive_is_not_waited_for(digits, monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{{"
    for half, answer in ((head, b"HTTP/1.1 408"), (head[:40], b"")):
        with socket.create_connection(("127.0.0.1", digits.port), timeout=20) as one:
            one.sendall(half.encode())
            assert one.recv(12) == answer


def test_a_client_that_leaves_the_queue_leaves_its_place(digits):
    held = threading.Event()
    digits.engine.call(held.wait)
    connections = []
    for _ in range(3):
        connections.append(http.client.HTTPConnection("127.0.0.1", digits.port))
        connections[-1].request("POST", CHAT, json.dumps(request()), {"Content-Type": "application/json"})
    for count in (3, 0):
        deadline = time.monotonic() + 30
        while digits.gauge("queue_length") != count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for connection in connections:
            connection.close()
    held.set()
    assert digits.chat(about(TEXT, PICTURE))


def test_a_full_queue_asks_to_come_again(digits):
    """The engine's thread is held, so that the queue fills up."""
    held, statuses = threading.Event(), []
    digits.engine.call(held.wait)

    def ask():
        status, headers, _ = digits.ask("POST", CHAT, json.dumps(request()).encode())
        statuses.append((status, headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(digits.limits.queue + 8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(statuses) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert digits.gauge("queue_length") == digits.limits.queue
    held.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [(200, None)] * digits.limits.queue + [(429, "1")] * 8


def test_a_token_is_asked_for(digits):
    face = digits.face
    try:
        face.token = "sesame"
        for given in ({}, {"Authorization": "Bearer open"}, {"Authorization": "sesame"}):
            status, said = digits.post(CHAT, request(), **given)
            assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        assert digits.ask("GET", "/demo/about")[0] == 401
        assert digits.ask("GET", "/health")[0] == 200
        assert digits.post(CHAT, request(), Authorization="Bearer sesame")[0] == 200
    finally:
        face.token = None


def test_the_bytes_of_all_requests_are_bounded(digits):
    budget = digits.face.budget
    before = budget._left
    try:
        budget._left = 100
        assert digits.post(CHAT, request())[0] == 429
    finally:
        budget._left = before
    digits.chat(about(TEXT, PICTURE))
    assert budget._left == before  # what was held is given back, whatever came of it
