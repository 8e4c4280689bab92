"""The command: flags that are wrong, and a server in a process of its own, which SIGTERM ends."""

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image


def png(seed):
    """A picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


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
    url = "data:image/png;base64," + base64.b64encode(png(1)).decode()
    parts = [{"type": "text", "text": "describe"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "model", "messages": [{"role": "user", "content": parts}], "stream": True}
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
