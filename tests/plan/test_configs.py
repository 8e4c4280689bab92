"""The configurations of the public models: the paper's recipe in every variant, for a model whose sizes are known."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.recipes.instructblip import HELD_IN, HELD_OUT
from instructblip_jax.recipes.public import PUBLIC
from instructblip_jax.run.config import resolve

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
    assert "vit/post_norm" in PUBLIC[run.model].trainable_sets[run.trainable]
    assert max(run.data.instruction_lengths) == 128
    assert max(run.data.response_lengths) == 256


def test_the_two_halves_of_the_suite_are_thirteen_each_and_apart():
    assert len(HELD_IN) == len(HELD_OUT) == 13
    assert not set(HELD_IN) & set(HELD_OUT)


def test_an_unknown_variant_is_told_with_those_there_are():
    with pytest.raises(ValueError, match=r"no variant 'v9'.*v5e_4x4"):
        run_of("vicuna7b", "v9")


VISION = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
QFORMER = {
    "vocab_size": 30523,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "cross_attention_frequency": 2,
    "encoder_hidden_size": 1408,
    "use_text": True,
}
FLAN_T5 = {
    "vocab_size": 32128,
    "d_kv": 64,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "activation": "gelu",
    "scale_outputs": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
VICUNA = {
    "vocab_size": 32064,
    "num_key_value_heads": 0,  # as many as heads
    "head_dim": 0,  # what the heads leave of the width
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
TEXT = {
    "flan-t5-xl": FLAN_T5 | {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "flan-t5-xxl": FLAN_T5 | {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
    "vicuna-7b": VICUNA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "vicuna-13b": VICUNA
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}
"""Facts of the hub's models, whether their files say them or leave them to the library's defaults."""
SAID = {
    "flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "flan-t5-xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
    "vicuna-7b": {},
    "vicuna-13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 40},
}
"""The sizes that their config.json says."""


@pytest.mark.parametrize("name", TEXT)
def test_the_public_models_are_what_the_hub_has(name):
    model = dataclasses.asdict(PUBLIC[f"Salesforce/instructblip-{name}"])
    assert model.pop("vision") == VISION
    assert model.pop("qformer") == QFORMER
    assert model.pop("text") == TEXT[name]
    assert model["num_query_tokens"] == 32
    assert model["instruct_qformer"]


@pytest.mark.parametrize("name", TEXT)
def test_known_sizes_are_what_the_public_file_says(tmp_path, name):
    """The fields of the hub's config.json from which sizes come."""
    text = {"model_type": "llama", "vocab_size": 32064, "pad_token_id": -1}
    if "t5" in name:
        text = {"model_type": "t5", "num_layers": 24, "d_kv": 64, "vocab_size": 32128, "tie_word_embeddings": False}
        text |= {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}
    qformer = {"vocab_size": 30523}
    raw = {"model_type": "instructblip", "text_config": text | SAID[name], "qformer_config": qformer}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert hf_instructblip.read_config(tmp_path / "config.json") == PUBLIC[f"Salesforce/instructblip-{name}"]
