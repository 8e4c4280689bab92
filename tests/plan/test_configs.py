"""The configurations of the public models: the paper's recipe in every variant, for a model whose sizes are known."""

import json
import runpy
from pathlib import Path

import pytest

from instructblip_jax.config import resolve
from instructblip_jax.convert import hf_config
from instructblip_jax.recipe import HELD_IN, HELD_OUT
from instructblip_jax.systems.public import PUBLIC
from instructblip_jax.systems.trainable import TRAINABLE

CONFIGS = Path(__file__).parents[2] / "configs"
BATCH = {"flan_t5_xl": 192, "flan_t5_xxl": 64, "vicuna7b": 128, "vicuna13b": 64}
VARIANTS = [
    (name, variant)
    for name in BATCH
    for variant in runpy.run_path(str(CONFIGS / f"instructblip_{name}.py"))["VARIANTS"]
]


def run_of(name: str, variant: str):
    return resolve(runpy.run_path(str(CONFIGS / f"instructblip_{name}.py"))["get_config"](variant))


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_is_the_papers_recipe(name, variant):
    run = run_of(name, variant)
    assert run.model in PUBLIC
    assert (run.batch_size, run.steps) == (BATCH[name], 60_000)
    optim = run.optim
    assert (optim.warmup_start, optim.learning_rate, optim.final_learning_rate) == (1e-8, 1e-5, 0.0)
    assert (optim.warmup_steps, optim.beta1, optim.beta2, optim.weight_decay) == (1000, 0.9, 0.999, 0.05)
    assert (run.mixture.sets, run.mixture.exponent) == (HELD_IN, 0.5)
    assert run.mixture.weights == {"aokvqa": 0.5, "okvqa": 2.0}  # ours: the paper's were not published
    assert ("vit", "post_norm") in TRAINABLE[run.trainable]
    assert max(run.data.instruction_lengths) == 128
    assert max(run.data.response_lengths) == 256


def test_the_two_halves_of_the_suite_are_thirteen_each_and_apart():
    assert len(HELD_IN) == len(HELD_OUT) == 13
    assert not set(HELD_IN) & set(HELD_OUT)


def test_an_unknown_variant_is_told_with_those_there_are():
    with pytest.raises(ValueError, match=r"no variant 'v9'.*v5e_4x4"):
        run_of("vicuna7b", "v9")


TEXT = {
    "flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "flan-t5-xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
    "vicuna-7b": {},
    "vicuna-13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 40},
}


@pytest.mark.parametrize("name", TEXT)
def test_known_sizes_are_what_the_public_file_says(tmp_path, name):
    """The fields of the hub's config.json from which sizes come."""
    text = {"model_type": "llama", "vocab_size": 32064, "pad_token_id": -1}
    if "t5" in name:
        text = {"model_type": "t5", "num_layers": 24, "d_kv": 64, "vocab_size": 32128, "tie_word_embeddings": False}
        text |= {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}
    qformer = {"vocab_size": 30523}
    raw = {"model_type": "instructblip", "text_config": text | TEXT[name], "qformer_config": qformer}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert hf_config.parse(tmp_path / "config.json") == PUBLIC[f"Salesforce/instructblip-{name}"]
