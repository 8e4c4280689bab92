"""The page of `instructblip serve` in a real browser, at the real server with the embedded model."""

import io
import itertools
import time

import browser
import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.datasets.digits import scene

pytestmark = pytest.mark.skipif(not browser.FOUND, reason=browser.MISSING)
GROWTH = """
window.grown = []
const note = () => grown.push(document.getElementById("answer").textContent)
new MutationObserver(note).observe(document.getElementById("answer"), { childList: true, subtree: true })
"""
STOP = """
new MutationObserver((_, observer) => {
  if (!document.getElementById("answer").textContent) return
  observer.disconnect()
  document.getElementById("stop").click()
}).observe(document.getElementById("answer"), { childList: true, subtree: true })
"""


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(3)
    return scene.encode(scene.render(scene.draw(rng), "test", rng))


@pytest.fixture
def shown(driver, digits, picture):
    """The real page with a picture that was dropped on it; it logs no error and asks nobody else."""
    page = browser.Page(driver)
    page.open(f"http://127.0.0.1:{digits.port}")
    page.drop("scene.png", "image/png", picture)
    yield page
    page.kept_to(f"http://127.0.0.1:{digits.port}")


def test_an_answer_appears_piece_by_piece_and_is_the_models(shown, digits, picture):
    shown.run(GROWTH)
    text = "list all digits with place and colour"
    shown.ask(text, max_tokens="16")
    shown.wait_for_answer("")
    pieces = [piece for piece in shown.run("return grown") if piece]
    assert len(set(pieces)) > 2
    assert all(later.startswith(before) for before, later in itertools.pairwise(pieces))
    given = Image.open(io.BytesIO(picture))
    [want] = ib.generate(digits.model, digits.processor, given, [text], num_beams=1, max_new_tokens=16)
    assert shown.text("#answer") == want.strip()


def test_a_stopped_answer_frees_its_row(shown, digits, monkeypatch):
    step = digits.engine.slots.step
    monkeypatch.setattr(digits.engine, "ends", frozenset())  # an answer of all 16 tokens, which takes its time
    monkeypatch.setattr(digits.engine.slots, "step", lambda: time.sleep(0.2) or step())
    before = digits.gauge("hang_ups_total")
    shown.run(STOP)
    shown.ask("describe the picture", max_tokens="16")
    shown.wait("return document.querySelector('#facts').textContent.startsWith('stopped')")
    end = time.monotonic() + 10
    while digits.gauge("rows_busy") or digits.gauge("hang_ups_total") == before:
        assert time.monotonic() < end
    assert digits.gauge("hang_ups_total") == before + 1


def test_bars_are_the_models_likelihoods(shown, digits, picture):
    text, candidates = "which digit is at the top left ?", ["3", "7", "red"]
    shown.write("#instruction", text)
    shown.write("#candidates", ", ".join(candidates))
    shown.run("document.getElementById('rank').requestSubmit()")
    shown.wait("return document.querySelectorAll('#ranking li').length == 3")
    scores = ib.rank(digits.model, digits.processor, Image.open(io.BytesIO(picture)), text, candidates)[0]
    rows = [row.text.splitlines() for row in shown.all("#ranking li")]
    assert [row[0] for row in rows] == [candidates[n] for n in np.argsort(-scores)]
    assert [row[2] for row in rows] == [f"log-likelihood −{-x:.2f}" for x in sorted(scores, reverse=True)]


def test_the_overlay_differs_without_the_instruction_and_with_another(shown):
    shown.write("#instruction", "which digit is at the top left ?")
    shown.one("#look").click()
    shown.wait("return document.querySelectorAll('#looking figure').length == 2")
    first = shown.pictures("#looking figure canvas")
    assert first[0] != first[1]
    shown.type_at_once("how many digits are there ?")
    second = shown.pictures("#looking figure canvas")
    assert second[0] not in (first[0], second[1])
