"""The layouts of all public sets, written once per session from two seeds."""

import pytest
from fixtures import build


@pytest.fixture(scope="session", params=(0, 1), ids=("seed0", "seed1"))
def layouts(request, tmp_path_factory):
    """(folder, counts)."""
    out = tmp_path_factory.mktemp("layouts")
    return out, build(out, request.param)


@pytest.fixture(scope="session")
def one_world(tmp_path_factory):
    """A folder from one seed, for tests that do not need two."""
    out = tmp_path_factory.mktemp("layout")
    build(out, 2)
    return out


@pytest.fixture
def world(layouts):
    return layouts[0]
