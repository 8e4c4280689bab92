"""Fine-tuning on one set: the paper's table 3 as configurations."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from instructblip_jax.datasets.prompts import PROMPTS, training_templates
from instructblip_jax.datasets.readers.releases import RELEASES
from instructblip_jax.evals.suite import SUITE
from instructblip_jax.recipes.instructblip import paper
from instructblip_jax.recipes.public import PUBLIC
from instructblip_jax.run.config import RunConfig, differences, resolve
from instructblip_jax.train.optimizer import schedule

MODULE = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "finetune.py"))
TRAINED_ON = {
    "scienceqa": "scienceqa:train_img",
    "ocrvqa": "ocrvqa:train",
    "okvqa": "okvqa:train",
    "aokvqa": "aokvqa:train",
}


def run_of(variant: str) -> RunConfig:
    return resolve(MODULE["get_config"](variant))


@pytest.mark.parametrize("variant", TRAINED_ON)
def test_a_variant_trains_on_its_set_alone_as_the_paper_says(variant):
    run = run_of(variant)
    assert run.mixture.sets == (TRAINED_ON[variant],)
    assert (run.evaluation.held_in, run.evaluation.held_out) == ((variant,), ())
    assert variant in SUITE
    assert run.model in PUBLIC
    assert (run.trainable, run.image_size, PUBLIC[run.model].vision.image_size) == ("original", 0, 224)
    optim = run.optim
    assert (optim.warmup_start, optim.learning_rate, optim.final_learning_rate) == (1e-8, 1e-5, 0.0)
    assert (optim.weight_decay, optim.beta1, optim.beta2) == (0.05, 0.9, 0.999)
    assert 64 <= run.batch_size <= 128


@pytest.mark.parametrize("variant", TRAINED_ON)
def test_steps_are_whole_passes_with_a_checkpoint_after_each(variant):
    run, fields = run_of(variant), MODULE["SETS"][variant]
    known = RELEASES[variant].expected.get(TRAINED_ON[variant].partition(":")[2], fields["records"])
    assert fields["records"] == known
    passes = run.steps / run.checkpoint_every
    assert passes == fields["epochs"] == run.checkpoints_kept
    assert 3 <= passes <= 5
    assert 0 <= run.checkpoint_every * run.batch_size - fields["records"] < run.batch_size
    rate = schedule(run.optim, run.steps)
    assert rate(run.steps // 10) > 0.97e-5  # the peak is reached early, however few steps there are
    assert rate(run.steps) < 1e-9


def test_scienceqa_is_trained_with_the_prompt_it_is_judged_with():
    assert training_templates()["scienceqa"] == (PROMPTS["scienceqa"],)
    assert all(slot in PROMPTS["scienceqa"] for slot in ("{context}", "{question}", "{options}"))


def test_an_unknown_set_is_told_with_those_there_are():
    with pytest.raises(ValueError, match=r"no variant 'vqav2'; it has scienceqa, ocrvqa, okvqa, aokvqa"):
        run_of("vqav2")


def test_the_size_of_the_pictures_is_part_of_what_a_run_is():
    run = resolve(paper("Salesforce/instructblip-vicuna-7b", 128, {"": {}}, ""))
    assert run.image_size == 0
    assert differences(run, dataclasses.replace(run, image_size=364)) == ["image_size (there 0, here 364)"]
