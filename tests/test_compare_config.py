"""The configurations of docs/compare.md: as many samples for each, the same questions, one schedule."""

import runpy

import pytest
import toys

from instructblip_jax import embedded
from instructblip_jax.run.config import RunConfig, resolve

FILE = toys.ROOT / "configs" / "compare.py"


@pytest.fixture(scope="module")
def runs() -> dict[str, RunConfig]:
    """All of them, without their models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "model", lambda name: name)
        file = runpy.run_path(str(FILE))
        return {name: resolve(file["get_config"](name)) for name in file["SYSTEMS"]}


def group(run: RunConfig) -> str:
    return "names" if run.evaluation.shots else "captions" if run.evaluation.settings else "questions"


def test_each_sees_as_many_samples_by_the_same_schedule(runs):
    want = {"questions": 12_000, "captions": 12_000, "names": 6_000}
    for name, run in runs.items():
        assert run.steps * run.batch_size == want[group(run)], name
        assert run.optim.warmup_steps == run.steps // 10, name
    assert {group(run) for run in runs.values()} == set(want)


@pytest.mark.parametrize("kind", ["questions", "captions", "names"])
def test_those_of_a_kind_have_the_same_sets_and_mixture(runs, kind):
    own = [run for run in runs.values() if group(run) == kind]
    assert len(own) >= 3
    for run in own[1:]:
        assert (run.mixture, run.evaluation) == (own[0].mixture, own[0].evaluation)


def test_the_models_are_there_and_share_a_language_model(runs):
    for name, run in runs.items():
        parts = embedded.MADE[run.model][1]
        if group(run) == "questions" and name != "kosmos":
            assert parts["language"] == "digits_llama", name


def test_the_decoder_that_is_trained_from_the_start_reads_the_same_tokens():
    kosmos, llama = (embedded.ASSETS / name / "tokenizer.json" for name in ("digits_kosmos_scenes", "digits_llama"))
    assert kosmos.read_bytes() == llama.read_bytes()


def test_an_unknown_system_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no variant 'blip3'; it has instructblip, blip2_stage2, llava_mlp"):
        runpy.run_path(str(FILE))["get_config"]("blip3")
