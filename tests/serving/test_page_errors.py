"""The page of `instructblip serve` when something is wrong: in words, with what to do."""

import browser
import fake_server
import pytest
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.skipif(not browser.FOUND, reason=browser.MISSING)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("large", "too large for the server. the request has more than 20,000,000 bytes. Use fewer or smaller files."),
        ("closed", "The server is starting or stopping. shutting down. Try again in a moment."),
        ("odd", "The server cannot answer this: messages[0].content[0]: not a picture."),
        ("broken", "Something went wrong in the server. internal error. Its log tells more."),
    ],
)
def test_errors_are_shown_in_words(page, text, told):
    page.example()
    page.ask(text)
    page.wait("return !document.querySelector('#notice').hidden")
    assert told in page.text("#notice")
    assert page.one("#submit").is_displayed()
    page.forgive(text)


def test_a_full_queue_says_when_to_try_again(page):
    page.example()
    page.ask("busy")
    page.wait("return document.querySelector('#notice button')?.textContent == 'Try again in 1 s'")
    assert not page.one("#notice button").is_enabled()
    page.wait("return document.querySelector('#notice button').textContent == 'Try again'")
    page.write("#instruction", "free again")
    page.one("#notice button").click()
    page.wait_for_answer("were sent")
    assert not page.one("#notice").is_displayed()
    page.forgive("busy")


def test_a_server_that_is_gone_is_said_to_be(driver):
    page = browser.Page(driver)
    with browser.serving(fake_server.server("writes")) as address:
        page.open(address)
        page.example()
        page.ask("slow")
        page.wait("return document.querySelector('#answer').textContent.includes('1')")
    page.wait("return !document.querySelector('#notice').hidden")
    assert "the connection to the server was lost" in page.text("#notice") or "does not answer" in page.text("#notice")
    page.one("#notice button").click()
    page.wait("return document.querySelector('#notice').textContent.includes('`instructblip serve` is still running')")
    page.forgive("gone")


def test_a_token_is_asked_for_and_kept(driver):
    page = browser.Page(driver)
    with browser.serving(fake_server.server("writes", token="let me in")) as address:
        page.open(address, ready=False)
        page.wait("return document.querySelector('#token').open")
        page.keys("wrong", Keys.ENTER)
        page.wait("return document.querySelector('#token-help').textContent.includes('did not accept')")
        page.keys("let me in", Keys.ENTER)
        page.wait("return document.body.dataset.ready")
        page.example()
        page.ask("anything")
        page.wait_for_answer("were sent")
        assert '"Authorization: Bearer $TOKEN"' in page.copied("#curl")
        assert not page.run("return localStorage.length + sessionStorage.length + document.cookie.length")
        page.forgive("token")


def test_what_is_missing_is_said_before_anything_is_sent(page):
    page.one("#submit").click()
    assert "Drop or paste a picture first." in page.text("#notice")
    page.example()
    page.one("#submit").click()
    assert "Write an instruction, or choose one." in page.text("#notice")
    page.ask("how many ?", temperature="5")
    assert "Temperature: Value must be less than or equal to 2." in page.text("#notice")
    assert page.active() == "temperature"  # which was folded away
    assert not any("/v1/" in url for url in browser.requested(page.driver))


def test_a_file_that_is_no_picture_is_refused_with_what_there_is(page):
    page.drop("notes.txt", "text/plain", b"A")
    assert "notes.txt is not a file that this model takes. It takes pictures (PNG, JPEG, WEBP or GIF)." in page.text(
        "#notice"
    )
    assert not page.all("#media li")
