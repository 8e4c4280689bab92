"""A headless Chromium that reaches nothing but this machine, and servers for it to look at."""

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from starlette.applications import Starlette

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FOUND = bool(CHROMIUM and DRIVER)
MISSING = "the page needs a browser: apt-get install chromium chromium-driver"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile, which keeps a log of its console and its requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        driver.set_script_timeout(20)
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """The address of ``app`` on this machine, while the context lasts."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def requested(driver: webdriver.Chrome) -> list[str]:
    """The addresses of all requests since the last call."""
    entries = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]


def screen(driver: webdriver.Chrome, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
    schemes = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": schemes})


DROP = """
const [name, type, bytes] = arguments
const dataTransfer = new DataTransfer()
dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type }))
document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }))
"""
PASTE = """
const clipboardData = new DataTransfer()
clipboardData.items.add(new File([new Uint8Array(arguments[0])], "image.png", { type: "image/png" }))
document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }))
"""


class Page:
    """The page in a browser, and the few things that tests do with it."""

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def open(self, address: str, *, ready: bool = True) -> None:
        screen(self.driver, 1280, 900)
        requested(self.driver), self.driver.get_log("browser")  # what other pages left
        self.driver.get(address)
        if ready:
            self.wait("return document.body.dataset.ready")

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments, seconds: float = 15) -> None:
        """Until ``script`` returns something true."""
        end = time.monotonic() + seconds
        while not self.run(script, *arguments):
            assert time.monotonic() < end, f"{script}: {self.run('return document.body.innerText')}"
            time.sleep(0.02)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def write(self, selector: str, text: str) -> None:
        self.one(selector).clear()
        self.one(selector).send_keys(text)

    def type_at_once(self, text: str) -> None:
        """Changes the instruction in one event, so that the overlay is asked for once; waits until it is there."""
        old = self.pictures("#looking figure canvas")
        field = "const field = document.getElementById('instruction'); field.value = arguments[0];"
        self.run(f"{field} field.dispatchEvent(new Event('input'))", text)
        end = time.monotonic() + 20
        while self.pictures("#looking figure canvas") == old or self.run("return looking.ariaBusy") == "true":
            assert time.monotonic() < end

    def keys(self, *pressed: str) -> None:
        """Presses keys wherever the focus is; modifiers hold for the keys after them."""
        self.driver.switch_to.active_element.send_keys(*pressed)

    def active(self) -> str:
        """The element with the focus: its id, or its kind."""
        return self.run("const it = document.activeElement; return it.id || it.localName")

    def drop(self, name: str, kind: str, content: bytes) -> None:
        """Drops a file on the page, and waits until it is there or refused."""
        count = "return document.querySelectorAll('#media li').length + document.querySelectorAll('#notice p').length"
        before = self.run(count)
        self.run(DROP, name, kind, [*content])
        self.wait(f"{count} > arguments[0]", before)

    def paste(self, content: bytes) -> None:
        self.run(PASTE, [*content])

    def copied(self, button: str) -> str:
        """The clipboard after a press on ``button``."""
        self.one(button).click()
        self.wait("return document.querySelector(arguments[0]).textContent == 'Copied'", button)
        return self.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")

    def choose(self, text: str) -> None:
        """Chooses one of the task's instructions."""
        Select(self.one("#suggestions")).select_by_value(text)

    def example(self) -> None:
        self.one("#example").click()
        self.wait("return document.querySelector('#media img')?.naturalWidth")

    def ask(self, text: str | None, **options: str) -> None:
        """Asks ``text`` (None: the one that is there), with values of the options' fields."""
        for name, value in options.items():
            self.run("document.getElementById(arguments[0]).value = arguments[1]", name, value)
        if text is not None:
            self.write("#instruction", text)
        self.one("#submit").click()

    def wait_for_answer(self, text: str) -> None:
        self.wait("return document.querySelector('#submit').checkVisibility() && !document.body.matches('.busy')")
        assert text in self.text("#answer"), self.run("return document.body.innerText")

    def pictures(self, selector: str) -> list[str]:
        """A digest of each canvas."""
        urls = self.run("return [...document.querySelectorAll(arguments[0])].map((one) => one.toDataURL())", selector)
        return [hashlib.sha256(url.encode()).hexdigest() for url in urls]

    def kept_to(self, address: str) -> None:
        """Fails if the page logged an error or asked another host since it was opened."""
        logged = self.driver.get_log("browser")
        here = (f"{address}/", "blob:", "data:", "chrome://")  # the last is the browser's first page, its own
        elsewhere = [url for url in requested(self.driver) if not url.startswith(here)]
        assert not logged, logged
        assert not elsewhere, elsewhere

    def forgive(self, why: str) -> None:
        """Waits for the browser's own lines about requests that failed, which a test provoked, and drops them."""
        entries, end = [], time.monotonic() + 5
        while not entries and time.monotonic() < end:
            entries = self.driver.get_log("browser")
        assert {entry["source"] for entry in entries} == {"network"}, (why, entries)
