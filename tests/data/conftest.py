"""Tiny prepared sets and the processor of a tiny model directory."""

import pytest
import toys

from instructblip_jax.data.prepared import open_set
from instructblip_jax.processor import Processor

SIZES = {"caption": 48, "digit_at": 24, "count": 12}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A directory of prepared sets, `SIZES` training records each."""
    return toys.write_sets(tmp_path_factory.mktemp("sets"), SIZES, evaluated=11)


@pytest.fixture(scope="session")
def sources(prepared):
    return {name: open_set(prepared, name, "train") for name in SIZES}


@pytest.fixture(scope="session")
def processor(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processor")
    toys.write_processor(directory)
    return Processor.from_pretrained(directory)
