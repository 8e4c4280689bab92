"""The layouts of all public sets, written once a session from two seeds."""

import pytest
from fixtures import build


@pytest.fixture(scope="session", params=(0, 1), ids=("seed0", "seed1"))
def layouts(request, tmp_path_factory):
    """(folder, counts)."""
    out = tmp_path_factory.mktemp("layouts")
    return out, build(out, request.param)


@pytest.fixture
def world(layouts):
    return layouts[0]
