"""The mock tenth system is in the table while the tests of this folder run, and in no other test."""

import pytest
import tenth

from instructblip_jax.families import FAMILIES


@pytest.fixture(scope="module", autouse=True)
def tenth_in_the_table():
    FAMILIES.update(tenth.LINE)
    yield
    for name in tenth.LINE:
        del FAMILIES[name]
