"""Streams: the answer in pieces, its rows given back when the client goes, and the end of the server."""

import http.client
import json
import threading
import time

import pytest
import toys
from serving_client import about, png

PICTURE = png(1)
LONG = 400


def events(response):
    """The chunks of a stream, up to [DONE]."""
    for line in response:
        if line.startswith(b"data: "):
            if line == b"data: [DONE]\n":
                return
            yield json.loads(line[6:])


def stream(served, text, **options):
    """An open stream: its connection and response."""
    body = {"model": "toy", "messages": [{"role": "user", "content": about(text, PICTURE)}], "stream": True, **options}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection, connection.getresponse()


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reachable(served):
    try:
        assert served.ask("GET", "/health")[0] == 503
    except ConnectionRefusedError:
        return False
    except ConnectionError:  # it was accepted just before the port closed
        return True
    return True


@pytest.fixture(scope="module")
def endless(serve, tmp_path_factory):
    """A model of random weights that takes its time: its answers are as long as they may be."""
    directory = tmp_path_factory.mktemp("endless") / "model"
    toys.write_model(directory)
    served = serve(directory, rows=2, max_prompt=16, max_tokens=LONG)
    served.engine.ends = frozenset()
    return served


def test_the_pieces_are_the_answer(digits):
    want = digits.chat(about("describe the picture", PICTURE), logprobs=True)
    options = {"stream_options": {"include_usage": True}, "logprobs": True}
    connection, response = stream(digits, "describe the picture", **options)
    chunks = list(events(response))
    connection.close()
    assert response.getheader("content-type").startswith("text/event-stream")
    *middle, last = chunks
    assert (last["choices"], last["usage"]) == ([], want["usage"])
    assert middle[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in middle)
    choice = want["choices"][0]
    assert said == choice["message"]["content"]
    assert len(middle) > 4  # several pieces
    assert middle[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    logprobs = [one for chunk in middle for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [one["token"] for one in logprobs] == [one["token"] for one in choice["logprobs"]["content"]]


def test_a_stop_text_is_never_shown(digits):
    whole = digits.text(about("describe the picture", PICTURE))
    connection, response = stream(digits, "describe the picture", stop=[whole[2:7]])
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(response))
    connection.close()
    assert said == whole[:2]


def test_a_client_that_goes_gives_its_row_to_the_next(endless):
    before = endless.gauge("hang_ups_total")
    open_streams = [stream(endless, "describe the picture") for _ in range(2)]
    for _, response in open_streams:
        next(events(response))
    until(lambda: endless.gauge("rows_busy") == 2)
    waiting, third = stream(endless, "describe the picture", max_tokens=3)
    for connection, response in open_streams:
        response.close()
        connection.close()
    assert len(list(events(third))) >= 2
    waiting.close()
    until(lambda: endless.gauge("rows_busy") == 0)
    assert endless.gauge("hang_ups_total") == before + 2


def test_a_request_that_does_not_stream_is_given_up_with_its_client(endless):
    body = {"model": "toy", "messages": [{"role": "user", "content": about("describe", PICTURE)}]}
    connection = http.client.HTTPConnection("127.0.0.1", endless.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    until(lambda: endless.gauge("rows_busy") == 1)
    connection.close()
    until(lambda: endless.gauge("rows_busy") == 0)


def test_a_step_that_fails_fails_the_requests_in_it_alone(endless):
    step = endless.engine.slots.step

    def fails():
        endless.engine.slots.step = step
        raise RuntimeError("out of memory")

    body = {"model": "toy", "messages": [{"role": "user", "content": about("describe", PICTURE)}], "max_tokens": 4}
    endless.engine.slots.step = fails
    status, said = endless.post("/v1/chat/completions", body)
    assert (status, said["error"]["type"]) == (500, "server_error")
    assert endless.post("/v1/chat/completions", body)[0] == 200


def test_the_last_answer_is_whole_and_nothing_new_begins(endless):
    """Runs last: it ends the server."""
    connection, response = stream(endless, "describe the picture")
    chunks = events(response)
    next(chunks)
    endless.server.end()
    until(lambda: not reachable(endless))  # until then health is 503
    rest = list(chunks)
    connection.close()
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    threading.Thread.join(endless.thread, 30)
    assert not endless.thread.is_alive()
    assert endless.server.finished
    assert endless.engine.stop(10)
