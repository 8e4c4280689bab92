"""The page of `instructblip serve` in a real browser: files, answers, bars, overlays, history."""

import base64
import io
import subprocess
import wave

import browser
import fake_server
import pytest
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.skipif(not browser.FOUND, reason=browser.MISSING)


def test_a_picture_is_dropped_pasted_or_picked_and_removed(page, tmp_path):
    page.drop("scene.png", "image/png", fake_server.picture())
    assert page.one("#media img").accessible_name == "scene.png"
    page.paste(fake_server.picture())  # this model takes one: the newest
    page.wait("return document.querySelector('#media img').alt == 'image.png'")
    assert len(page.all("#media li")) == 1
    page.one(".remove").click()
    assert not page.all("#media li")
    (tmp_path / "picked.png").write_bytes(fake_server.picture())
    page.one("#files").send_keys(str(tmp_path / "picked.png"))
    page.wait("return document.querySelector('#media img')?.alt == 'picked.png'")


def test_stop_ends_an_answer_and_the_next_one_is_whole(page):
    page.example()
    page.ask("be slow")
    page.wait("return document.querySelector('#answer').textContent.includes('1')")
    page.one("#stop").click()
    page.wait("return document.querySelector('#facts').textContent.startsWith('stopped')")
    assert page.active() == "submit"
    page.ask("be quick")
    page.wait_for_answer("image_url, text were sent")
    assert page.text("#facts").startswith("3 tokens")


def test_an_empty_answer_is_said_to_be_empty(page):
    page.example()
    page.ask("be silent")
    page.wait("return !document.querySelector('#answer-foot').hidden")
    assert "The answer is empty." in page.text("#answer-card")


def test_an_instruction_is_chosen_and_options_are_sent(page):
    page.example()
    page.choose("where is the 3 ?")
    page.run("document.getElementById('options').open = true")
    page.ask(None, temperature="0.5", top_p="0.9", max_tokens="7", seed="3")
    page.wait_for_answer("were sent")
    command = page.copied("#curl")
    for field in ('"temperature": 0.5', '"top_p": 0.9', '"max_tokens": 7', '"seed": 3', "where is the 3 ?"):
        assert field in command


@pytest.mark.parametrize("named", [False, True], ids=["pasted", "from-disk"])
def test_the_curl_command_asks_the_same(page, tmp_path, named):
    if named:
        (tmp_path / "it's.png").write_bytes(fake_server.picture())
        page.one("#files").send_keys(str(tmp_path / "it's.png"))
    else:
        page.example()
    text = r"a $HOME, a `tick`, a \ and 'quotes' of \"two\" kinds"
    page.ask(text)
    page.wait_for_answer("were sent")
    done = subprocess.run(
        ["bash", "-ec", page.copied("#curl")], cwd=tmp_path, capture_output=True, text=True, timeout=20
    )
    assert "image_url" in done.stdout, done.stderr
    asked = fake_server.ASKED[-1], fake_server.ASKED[-2]  # by curl, by the page
    assert asked[0]["messages"] == asked[1]["messages"]
    assert asked[0]["messages"][0]["content"][-1]["text"] == text


def test_candidates_become_bars(page):
    page.example()
    page.write("#instruction", "is it blue ?")
    page.write("#candidates", "no")
    page.keys(Keys.ENTER)
    assert "two candidates or more" in page.text("#notice")
    page.write("#candidates", "yes, no , perhaps")
    page.keys(Keys.ENTER)
    page.wait("return document.querySelectorAll('#ranking li').length == 3")
    assert [row.text.splitlines()[:2] for row in page.all("#ranking li")] == [
        ["yes", "67 %"],
        ["no", "24 %"],
        ["perhaps", "9.0 %"],
    ]
    widths = [fill.size["width"] for fill in page.all("#ranking .fill")]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] / widths[1] == pytest.approx(2.72, abs=0.05)


def test_the_overlay_follows_the_instruction_and_the_query(page):
    page.example()
    page.write("#instruction", "one")
    page.one("#look").click()
    page.wait("return document.querySelectorAll('#looking figure').length == 2")
    assert [one.text for one in page.all("figcaption")] == ["With the instruction", "Without the instruction"]
    first, second = page.pictures("#looking figure canvas")
    assert first != second
    assert len(page.all(".queries input")) == 1 + fake_server.QUERIES
    page.type_at_once("another")
    changed = page.pictures("#looking figure canvas")
    page.run("document.querySelector('.queries input:checked').focus()")
    page.keys(Keys.ARROW_RIGHT)
    assert page.run("return document.querySelector('.queries input:checked').ariaLabel") == "Query 1"
    assert page.pictures("#looking figure canvas") != changed
    assert "of query 1's attention" in page.text(".told")
    assert page.one("#looking figure canvas").accessible_name.startswith("With the instruction: most attention, ")


def test_history_brings_back_what_was_asked(page):
    page.example()
    page.ask("the first")
    page.wait_for_answer("were sent")
    page.one(".remove").click()
    page.drop("other.png", "image/png", fake_server.picture())
    page.ask("the second")
    page.wait("return document.querySelectorAll('#history li').length == 2")
    page.all("#history button")[1].click()
    assert page.run("return document.getElementById('instruction').value") == "the first"
    assert page.one("#media img").accessible_name == "example.png"
    assert page.text("#asked") == "the first"


def test_systems_that_compare_show_a_bar_for_each_pair(driver):
    page = browser.Page(driver)
    with browser.serving(fake_server.server("compares")) as address:
        page.open(address)
        for name in ("a.png", "b.png"):
            page.drop(name, "image/png", fake_server.picture())
        page.ask("a longer text\nshort")
        page.wait("return document.querySelectorAll('.compared').length == 2")
        assert [one.text for one in page.all(".compared h3")] == ["Similarity (cosine)", "Belong together"] * 2
        assert [row.text.splitlines() for row in page.all(".compared:first-child .bars:last-child li")] == [
            ["short", "17 %"],
            ["a longer text", "7.1 %"],
        ]
        assert not page.one("#answer-card").is_displayed()
        page.kept_to(address)


def test_sounds_and_point_clouds_are_sent_as_their_kinds(driver):
    page = browser.Page(driver)
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    with browser.serving(fake_server.server("senses")) as address:
        page.open(address)
        page.drop("a.wav", "audio/wav", sound.getvalue())
        page.drop("shape.npy", "", bytes([1, 2, 3]))
        page.wait("return document.querySelector('#media audio').duration > 0")
        assert page.one("#media audio").accessible_name == "a.wav"
        page.ask("what is it ?")
        page.wait_for_answer("input_audio, pc_url, text were sent")
        first, second = fake_server.ASKED[-1]["messages"][0]["content"][:2]
        assert first["input_audio"] == {"data": base64.b64encode(sound.getvalue()).decode(), "format": "wav"}
        assert second["pc_url"]["url"] == "data:application/octet-stream;base64,AQID"
        page.kept_to(address)
