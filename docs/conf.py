"""The documentation site: these Markdown files as they stand, an API page and a page of commands made at build time.

    pip install -e '.[docs]' && sphinx-build -W -c docs . build/site

The root of the checkout is the source directory, so that a link between files is the same on the site and on GitHub.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(ROOT))

import instructblip_jax as ib  # noqa: E402
from instructblip_jax.__main__ import COMMANDS  # noqa: E402

project = "instructblip_jax"
copyright = "the authors of instructblip_jax; Apache-2.0"
release = version = ib.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md"]
exclude_patterns = [".*", "build", "data", "dist", "instructblip_jax", "runs", "tests", "tools"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # a README may begin at any level
default_role = "code"  # docstrings use single backquotes for names
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
html_theme = "furo"
html_title = f"instructblip_jax {version}"
html_show_sphinx = False

NAVIGATION = {
    "Start": ["docs/demo", "docs/digits", "docs/look", "docs/serve", "docs/compare", "docs/hardware", "CHANGELOG"],
    "Your own data": ["docs/own_data", "docs/media", "docs/configuration", "docs/finetuning"],
    "Public checkpoints": ["docs/checkpoints", "docs/datasets", "docs/scienceqa", "docs/features"],
    "Clusters and speed": ["docs/clusters", "docs/plan", "docs/gpus", "docs/performance"],
    "Systems": [
        *("docs/blip2", "docs/blip", "docs/albef", "docs/llava", "docs/flamingo", "docs/kosmos", "docs/frozen"),
        "docs/x_instructblip",
    ],
    "Evaluation": ["docs/metrics", "docs/few_shot", "docs/retrieval", "docs/capfilt"],
    "Reference": ["docs/commands", "docs/api", "ARCHITECTURE", "CONTRIBUTING"],
}
"""Caption -> pages, in the order of the sidebar; a page that is not there is left out."""


def navigation() -> str:
    """The sidebar, as hidden tables of contents at the end of the front page."""
    tables = []
    for caption, pages in NAVIGATION.items():
        there = [f"/{page}" for page in pages if (ROOT / f"{page}.md").is_file()]
        tables.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *there, "```"]))
    return "\n\n".join(tables)


def command_help(name: str) -> str:
    """The section of a command: what its --help prints."""
    done = subprocess.run(
        [sys.executable, "-m", "instructblip_jax", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return f"## instructblip {name}\n\n```text\n{done.stdout.strip()}\n```"


def commands() -> str:
    """The sections of all commands."""
    with ThreadPoolExecutor() as pool:
        return "\n\n".join(pool.map(command_help, COMMANDS))


def api() -> str:
    """A section for each public name, with its signature and docstring."""

    def section(name: str) -> str:
        is_class = isinstance(getattr(ib, name), type)
        directive = f".. autoclass:: instructblip_jax.{name}\n   :members:" if is_class else ""
        directive = directive or f".. autofunction:: instructblip_jax.{name}"
        return f"## {name}\n\n```{{eval-rst}}\n{directive}\n```"

    return "\n\n".join(map(section, ib.__all__))


ADDED = {"README": navigation, "docs/commands": commands, "docs/api": api}


def setup(app) -> None:
    """Append the generated text to the pages that ask for it."""

    def append(app, page: str, source: list[str]) -> None:
        if page in ADDED:
            source[0] += f"\n\n{ADDED[page]()}\n"

    app.connect("source-read", append)
