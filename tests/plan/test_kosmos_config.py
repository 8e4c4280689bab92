"""configs/kosmos1.py is the paper's run: its tokens a step, its rate, its groups."""

import runpy
from pathlib import Path

import pytest

from instructblip_jax.recipes.kosmos import CORPORA, LONGEST, PICTURE
from instructblip_jax.recipes.public import NEW
from instructblip_jax.run.check import fitted
from instructblip_jax.run.config import resolve
from instructblip_jax.run.open_data import TEMPLATE_SETS

CONFIG = Path(__file__).parents[2] / "configs" / "kosmos1.py"


def run_of(variant: str):
    return resolve(runpy.run_path(str(CONFIG))["get_config"](variant))


def test_a_step_reads_the_papers_tokens():
    tokens = {name: own.tokens for name, own in CORPORA.items()}
    assert tokens == pytest.approx({"text": 0.5e6, "pairs": 0.5e6, "interleaved": 0.2e6}, rel=0.05)
    assert sum(tokens.values()) == pytest.approx(1.2e6, rel=0.05)
    assert all(own.tokens <= own.rows * LONGEST for own in CORPORA.values())
    assert NEW["kosmos-1-new"].tokens_per_picture == PICTURE


@pytest.mark.parametrize("variant", ["", "instruct", *CORPORA])
def test_every_variant_fits_its_model(variant):
    run = fitted(run_of(variant), NEW["kosmos-1-new"])
    optim = run.optim
    assert (optim.decay, optim.warmup_steps, optim.beta2, optim.weight_decay) == ("linear", 375, 0.98, 0.01)
    assert optim.learning_rate == (2e-5 if variant == "instruct" else 2e-4)
    assert run.trainable == "last_vision_layer"
    if not variant:
        assert (run.steps, {name: group.batch_size for name, group in run.mixture.groups.items()}) == (
            300_000,
            {name: own.rows for name, own in CORPORA.items()},
        )


def test_captions_have_no_words_before_them_and_instructions_stand_as_they_are():
    templates = TEMPLATE_SETS[run_of("instruct").data.templates]
    assert (templates["task:caption"], templates["task:open"]) == (("",), ("{question}",))


def test_an_unknown_variant_is_told_with_those_there_are():
    with pytest.raises(ValueError, match="no variant 'v9'; it has instruct, text, pairs, interleaved"):
        run_of("v9")
