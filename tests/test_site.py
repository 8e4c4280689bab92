"""The documentation site is built without a warning, which a broken link or anchor is, and needs no other host."""

import re
import subprocess
import sys

import pytest
import toys

import instructblip_jax as ib
from instructblip_jax.__main__ import COMMANDS


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The directory of the built site."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(out)]
    done = subprocess.run(command, cwd=toys.ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_in_the_navigation(site):
    front = (site / "README.html").read_text(encoding="utf-8")
    for path in toys.ROOT.glob("docs/*.md"):
        assert f'href="docs/{path.stem}.html"' in front, f"docs/conf.py: NAVIGATION lacks {path.name}"


def test_the_api_page_has_every_public_name_with_its_text(site):
    page = (site / "docs" / "api.html").read_text(encoding="utf-8")
    missing = [name for name in ib.__all__ if f'id="instructblip_jax.{name}"' not in page]
    assert missing == []
    assert "log-likelihood" in page


def test_the_page_of_commands_has_the_help_of_each(site):
    page = (site / "docs" / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"<h2>instructblip {name}<" not in page] == []
    assert page.count("--workdir") > 4


def test_no_page_loads_a_file_from_another_host(site):
    tags = r"""<(?:script|img|iframe|link)\b[^>]*(?:src|href)=["'](?:https?:)?//"""
    loads = re.compile(tags + r"""|@import|url\(["']?(?:https?:)?//""")
    checked = 0
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not loads.search(path.read_text(encoding="utf-8")), path.name
        checked += 1
    assert checked > 30
