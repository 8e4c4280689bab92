"""Servers in this process, on a port of their own; a browser, and the page of a stand-in server in it."""

import asyncio
import http.client
import json
import threading

import browser
import fake_server
import pytest
import toys

import instructblip_jax as ib
from instructblip_jax.serving.engine import Engine
from instructblip_jax.serving.face import Face
from instructblip_jax.serving.limits import Limits
from instructblip_jax.serving.metrics import Metrics
from instructblip_jax.serving.server import Server, bound


class Served:
    """A model behind HTTP; ``model`` and ``processor`` are the same ones, to be asked without it."""

    def __init__(self, directory, token=None, options=None, **limits):
        self.model = ib.from_pretrained(directory, dtype="float32", **(options or {}))
        self.processor = ib.Processor.from_pretrained(directory)
        self.limits = Limits(**({"rows": 4, "queue": 32, "max_tokens": 16, "max_prompt": 32, "pictures": 2} | limits))
        self.metrics = Metrics()
        self.engine = Engine(self.model, self.processor, self.metrics, self.limits)
        self.engine.prepare()
        self.names = list(self.engine.warm_up())
        self.face = Face(self.engine, "toy", self.limits, system="any", title="Any", token=token, example=b"PNG")
        self.server = Server(self.face)
        place = bound("127.0.0.1", 0)
        self.port = place.getsockname()[1]
        self.engine.start()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([place])), daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()

    def close(self):
        self.server.end()
        self.thread.join(30)
        assert self.engine.stop(30)
        self.face.close()
        self.metrics.close()

    def ask(self, method, path, body=None, **headers):
        """Status, headers and content of a raw request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def post(self, path, body, **headers):
        """Status and JSON of a request with JSON."""
        status, _, content = self.ask("POST", path, json.dumps(body).encode(), **headers)
        return status, json.loads(content)

    def chat(self, content, **options):
        """The response of a chat about one user's content, or of ``messages``; it must be an answer."""
        messages = options.pop("messages", None) or [{"role": "user", "content": content}]
        status, said = self.post("/v1/chat/completions", {"model": "toy", "messages": messages, **options})
        assert status == 200, said
        return said

    def text(self, content, **options):
        """The first answer of a chat."""
        return self.chat(content, **options)["choices"][0]["message"]["content"]

    def gauge(self, name):
        """A number of /metrics."""
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"serve_{name} "))


@pytest.fixture(scope="session")
def serve():
    """Starts servers, and ends them with the session."""
    running = []

    def start(directory, **options):
        running.append(Served(directory, **options))
        return running[-1]

    yield start
    for served in running:
        if served.thread.is_alive():
            served.close()


@pytest.fixture(scope="session")
def digits(serve):
    """The embedded model, whose towers know the world and whose bridge knows nothing yet."""
    return serve(toys.SHIPPED)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
        yield driver


@pytest.fixture(scope="module")
def writes():
    with browser.serving(fake_server.server("writes")) as address:
        yield address


@pytest.fixture
def page(driver, writes):
    """A new page at the stand-in server; whatever it does, it logs no error and asks nobody else."""
    page = browser.Page(driver)
    page.open(writes)
    yield page
    page.kept_to(writes)
