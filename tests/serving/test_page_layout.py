"""The page of `instructblip serve` for everybody: phones, dark rooms, keyboards, screen readers."""

import time
from pathlib import Path

import browser
import pytest
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.skipif(not browser.FOUND, reason=browser.MISSING)
CONTRASTS = Path(__file__).with_name("contrasts.js").read_text()


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
    card = page.run("return getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert (card == "rgb(255, 255, 255)") != dark
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
