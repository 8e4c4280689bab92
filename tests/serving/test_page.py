"""The page of `instructblip serve` in a real browser, with a stand-in server: everything that people meet, errors too."""

import base64
import io
import subprocess
import time
import wave

import browser
import fake_server
import pytest
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason="needs chromium and chromedriver")

DROP = """
const [name, type, bytes, target] = arguments
const transfer = new DataTransfer()
transfer.items.add(new File([new Uint8Array(bytes)], name, { type }))
document.querySelector(target).dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }))
"""
PASTE = """
const transfer = new DataTransfer()
transfer.items.add(new File([new Uint8Array(arguments[0])], "image.png", { type: "image/png" }))
document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }))
"""
CONTRASTS = """
const numbers = (text) => text.match(/[\\d.]+/g).map(Number)
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0)
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const colour = numbers(getComputedStyle(element).backgroundColor)
    if (colour.length === 3 || colour[3] === 1) return colour
  }
}
const low = []
for (const element of document.body.querySelectorAll("*")) {
  const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.textContent.trim()).join("")
  if (!text || !element.checkVisibility() || element.matches("canvas, option, optgroup, .remove")) continue
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x)
  if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${text}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`)
}
return low
"""


@pytest.fixture(scope="module")
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


def test_a_picture_is_dropped_pasted_or_picked_and_removed(page, tmp_path):
    page.run(DROP, "scene.png", "image/png", [*fake_server.picture()], "#answer")
    page.wait("return document.querySelectorAll('#media img').length == 1")
    assert page.one("#media img").accessible_name == "scene.png"
    page.run(PASTE, [*fake_server.picture()])  # this model takes one: the newest
    page.wait("return document.querySelector('#media img').alt == 'image.png'")
    assert len(page.all("#media li")) == 1
    page.one(".remove").click()
    assert not page.all("#media li")
    (tmp_path / "picked.png").write_bytes(fake_server.picture())
    page.one("#files").send_keys(str(tmp_path / "picked.png"))
    page.wait("return document.querySelector('#media img')?.alt == 'picked.png'")


def test_a_file_that_is_no_picture_is_refused_with_what_there_is(page):
    page.run(DROP, "notes.txt", "text/plain", [65], "#drop")
    page.wait("return !document.querySelector('#notice').hidden")
    assert "notes.txt is not a file that this model takes. It takes pictures (PNG, JPEG, WEBP or GIF)." in page.text(
        "#notice"
    )
    assert not page.all("#media li")


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


def test_keyboard_alone_asks_and_stops(page):
    reached = []
    for _ in range(12):
        page.keys(Keys.TAB)
        reached.append(page.active())
        focus = (
            "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        style, width = page.run(focus)
        assert style != "none"
        assert width >= 2
        if reached[-1] == "look":
            break
    tabbed = ["pick", "example", "instruction", "suggestions", "summary", "submit", "candidates", "button", "look"]
    assert reached == tabbed
    page.run("document.getElementById('example').focus()")
    page.keys(Keys.ENTER)
    page.wait("return document.querySelector('#media img')")
    page.run("document.getElementById('instruction').focus()")
    page.keys("be slow")
    page.keys(Keys.CONTROL, Keys.ENTER)
    page.wait("return document.querySelector('#answer').textContent.includes('3')")
    page.keys(Keys.ESCAPE)
    page.wait("return !document.querySelector('#submit').hidden")
    assert page.text("#facts").startswith("stopped")
    kept = page.text("#answer")
    assert kept.startswith("0 1 2 3")
    time.sleep(0.5)
    assert page.text("#answer") == kept


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


def test_an_instruction_is_chosen_and_options_are_sent(page):
    page.example()
    page.run(
        "const s = document.getElementById('suggestions'); s.value = 'where is the 3 ?'; s.dispatchEvent(new Event('change'))"
    )
    page.run("document.getElementById('options').open = true")
    page.ask(None, temperature="0.5", top_p="0.9", max_tokens="7", seed="3")
    page.wait_for_answer("were sent")
    page.one("#curl").click()
    page.wait("return document.querySelector('#curl').textContent == 'Copied'")
    command = page.clipboard()
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
    page.one("#curl").click()
    page.wait("return document.querySelector('#curl').textContent == 'Copied'")
    page.run("fetch = undefined")
    command = page.clipboard()
    done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True, timeout=20)
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
    page.write("#instruction", "another")  # nothing is pressed
    page.wait("return arguments[0] != document.querySelector('#looking figure canvas').toDataURL()", first)
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
    page.run(DROP, "other.png", "image/png", [*fake_server.picture()], "#drop")
    page.wait("return document.querySelector('#media img')")
    page.ask("the second")
    page.wait("return document.querySelectorAll('#history li').length == 2")
    page.all("#history button")[1].click()
    assert page.run("return document.getElementById('instruction').value") == "the first"
    assert page.one("#media img").accessible_name == "example.png"
    assert page.text("#asked") == "the first"


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
        page.one("#curl").click()
        page.wait("return document.querySelector('#curl').textContent == 'Copied'")
        assert '"Authorization: Bearer $TOKEN"' in page.clipboard()
        assert not page.run("return localStorage.length + sessionStorage.length + document.cookie.length")
        page.forgive("token")


def test_systems_that_compare_show_a_bar_for_each_pair(driver):
    page = browser.Page(driver)
    with browser.serving(fake_server.server("compares")) as address:
        page.open(address)
        for name in ("a.png", "b.png"):
            page.run(DROP, name, "image/png", [*fake_server.picture()], "#drop")
            page.wait(
                "return [...document.querySelectorAll('#media img')].some((one) => one.alt == arguments[0])", name
            )
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
        page.run(DROP, "a.wav", "audio/wav", [*sound.getvalue()], "#drop")
        page.wait("return document.querySelectorAll('#media li').length == 1")
        page.run(DROP, "shape.npy", "", [1, 2, 3], "#drop")
        page.wait("return document.querySelectorAll('#media li').length == 2")
        page.wait("return document.querySelector('#media audio').duration > 0")
        assert page.one("#media audio").accessible_name == "a.wav"
        page.ask("what is it ?")
        page.wait_for_answer("input_audio, pc_url, text were sent")
        first, second = fake_server.ASKED[-1]["messages"][0]["content"][:2]
        assert first["input_audio"] == {"data": base64.b64encode(sound.getvalue()).decode(), "format": "wav"}
        assert second["pc_url"]["url"] == "data:application/octet-stream;base64,AQID"
        page.kept_to(address)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_and_can_be_read(page, width, dark):
    browser.screen(page.driver, width, 800, phone=width < 500, dark=dark)
    page.example()
    page.run("document.getElementById('options').open = true")
    page.ask("where is the " + "very" * 30 + " long word ?")
    page.wait_for_answer("were sent")
    page.write("#candidates", "yes, no")
    page.keys(Keys.ENTER)
    page.run("document.getElementById('look').click()")
    page.wait("return document.querySelectorAll('#ranking li').length && document.querySelector('#looking figure')")
    page.ask("odd")
    page.wait("return !document.querySelector('#notice').hidden")
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(CONTRASTS) == []
    black, white = page.run(
        "return [document.body, document.querySelector('.card')].map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert (white == "rgb(255, 255, 255)") != dark
    assert black != white
    assert page.one("#shoot").is_displayed() == (width < 500)
    page.forgive("odd")


def test_everything_that_is_used_has_a_name(page):
    page.example()
    page.run("document.getElementById('options').open = true")
    page.ask("anything")
    page.wait_for_answer("were sent")
    page.run("document.getElementById('look').click()")
    page.wait("return document.querySelector('#looking figure')")
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "combobox", "radio", "spinbutton", "image", "form", "region", "listitem", "group"}
    used = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert {role for role, _ in used} >= {"button", "textbox", "combobox", "radio", "spinbutton", "region", "main"}
    assert [role for role, name in used if role in roles - {"listitem", "group"} and not name] == []
    live = page.run("return ['answer', 'ranking'].map((id) => document.getElementById(id).ariaLive)")
    assert live == ["polite", "polite"]
