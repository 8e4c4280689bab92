"""The command: flags that are wrong, and a server in a process of its own, which SIGTERM ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from serving_client import about, png


@pytest.fixture
def server(environment, world):
    """A server of the tiny model on a free port, and its address."""
    flags = ("--port=0", "--rows=2", "--max_tokens=300", "--max_prompt=16", "--dtype=float32")
    command = [sys.executable, "-m", "instructblip_jax", "serve", f"--model={world / 'model'}", *flags]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    try:
        yield process, re.search(r"http://127\.0\.0\.1:(\d+)", said)[0], process.stdout.readline()
    finally:
        process.kill()
        process.wait()


def test_sigterm_finishes_the_answer_that_is_being_written(server, tmp_path):
    process, address, example = server
    picture = tmp_path / "F.png"
    picture.write_bytes(png(0))
    done = subprocess.run(["bash", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["object"] == "chat.completion"  # the example that it printed works
    body = {"model": "model", "messages": [{"role": "user", "content": about("describe", png(1))}], "stream": True}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.readline()
        process.send_signal(signal.SIGTERM)
        assert response.read().endswith(b"data: [DONE]\n\n")
    assert process.wait(60) == 0
    assert process.stderr.read() == ""


def test_wrong_flags(cli, world, monkeypatch):
    for flags, said in (
        ([], "--model is needed"),
        (["--model=digits", "more"], "unexpected arguments: more"),
        (["--model=digits", "--token="], "--token is empty"),
        (["--model=digits", "--port=99999"], "port"),
    ):
        result = cli("serve", *flags)
        assert result.code == 2
        assert said in result.err
    monkeypatch.setenv("INSTRUCTBLIP_TOKEN", "")
    assert cli("serve", "--model=digits").code == 2
    monkeypatch.delenv("INSTRUCTBLIP_TOKEN")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = cli("serve", f"--model={world / 'model'}", f"--port={taken.getsockname()[1]}")
    assert result.code == 1
    assert re.search(r"--port \d+: Address already in use", result.err)
