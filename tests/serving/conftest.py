"""A browser for all tests of the page that a worker runs, and the page at a stand-in server."""

import browser
import fake_server
import pytest


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
