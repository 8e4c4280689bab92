"""The configurations of the public models: the paper's recipe in every variant, for a model whose sizes are known."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest

from instructblip_jax.convert.layouts import hf_instructblip, hf_llava
from instructblip_jax.datasets.readers.releases import RELEASES
from instructblip_jax.evals.suite import eval_spec
from instructblip_jax.recipes.instructblip import HELD_IN, HELD_OUT
from instructblip_jax.recipes.public import NEW, PUBLIC
from instructblip_jax.run.check import fitted
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
    "patch_bias": True,
    "pre_norm": False,
    "post_norm": True,
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


# LLaVA

LLAVA = [
    (name, variant)
    for name in ("1_0_7b", "1_5_7b", "1_5_13b")
    for variant in runpy.run_path(str(CONFIGS / f"llava_{name}.py"))["VARIANTS"]
]
STATED = {
    ("1_0", "stage1"): ("llava_cc3m_595k", 128, 2e-3, 4652),
    ("1_0", "stage2"): ("llava_instruct_150k", 32, 2e-5, 14786),
    ("1_5", "stage1"): ("llava_lcs_558k", 256, 1e-3, 2181),
    ("1_5", "stage2"): ("llava_v1_5_mix665k", 128, 2e-5, 5198),
    ("1_5", "lora"): ("llava_v1_5_mix665k", 128, 2e-4, 5198),
}
"""Version and stage -> data, batch, rate and steps, of the papers' tables and the authors' scripts."""


def llava(name: str, variant: str):
    return resolve(runpy.run_path(str(CONFIGS / f"llava_{name}.py"))["get_config"](variant))


@pytest.mark.parametrize(("name", "variant"), LLAVA)
def test_every_stage_of_llava_is_the_papers(name, variant):
    run, stage = llava(name, variant), variant.partition("_")[0] or "stage2"
    optim = run.optim
    assert (*run.mixture.sets, run.batch_size, optim.learning_rate, run.steps) == STATED[name[:3], stage]
    assert (optim.beta1, optim.beta2, optim.epsilon, optim.weight_decay) == (0.9, 0.999, 1e-8, 0.0)
    assert (optim.clip_norm, optim.warmup_start, optim.final_learning_rate) == (1.0, 0.0, 0.0)
    assert optim.warmup_steps == int(0.03 * run.steps)
    assert run.batch_size % optim.accumulation == 0
    sizes = PUBLIC["llava-hf/llava-1.5-13b-hf" if "13b" in name else "llava-hf/llava-1.5-7b-hf"]
    system = fitted(run, sizes.configured(**run.system_options()))
    assert system.trainable == {"stage1": "projector", "lora": "projector_and_lora"}.get(stage, "projector_and_llm")
    assert run.system["conversation"] == ("plain" if stage == "stage1" else "v1")
    assert run.system["image_aspect_ratio"] == ("pad" if name.startswith("1_5") and stage != "stage1" else "square")
    slots = {"1_0": 256, "1_5": 576}[name[:3]]
    assert slots + max(run.data.instruction_lengths) + max(run.data.response_lengths) <= 2048
    for name, changes in run.evaluation.settings.items():
        assert eval_spec(name, "test", 64, changes).num_beams == 1


def blip2(stage: str, variant: str):
    return resolve(runpy.run_path(str(CONFIGS / f"blip2_{stage}.py"))["get_config"](variant))


@pytest.mark.parametrize("variant", runpy.run_path(str(CONFIGS / "blip2_stage1.py"))["VARIANTS"])
def test_blip2s_first_stage_and_its_retrieval_are_the_papers(variant):
    run = blip2("stage1", variant)
    optim, retrieval = run.optim, variant == "retrieval"
    stated = (224, 12655, 1e-5, 1000, 0.999) if retrieval else (1680, 250_000, 1e-4, 2000, 0.98)
    assert (run.batch_size, run.steps, optim.learning_rate, optim.warmup_steps, optim.beta2) == stated
    assert (optim.beta1, optim.weight_decay, optim.accumulation) == (0.9, 0.05, 1)
    sizes = NEW[run.model].configured(**run.system_options())
    assert (sizes.vision.image_size, sizes.writes, sizes.label_smoothing) == (364 if retrieval else 224, True, 0.1)
    assert sizes.identify_pictures == retrieval
    assert fitted(run, sizes).trainable == ("vision" if retrieval else "qformer")
    assert run.data.response_lengths == (32,)
    assert (run.data.augment.crop, run.data.augment.flip) == (0.5, True)
    assert set(run.mixture.sets) <= set(RELEASES)


@pytest.mark.parametrize("variant", runpy.run_path(str(CONFIGS / "blip2_stage2.py"))["VARIANTS"])
def test_blip2s_second_stage_is_the_papers(variant):
    run = blip2("stage2", variant)
    optim, t5 = run.optim, "t5" in variant
    assert (run.batch_size, run.steps) == (1520 if t5 else 1920, 80_000)
    assert (optim.learning_rate, optim.final_learning_rate, optim.warmup_steps) == (1e-4, 5e-5, 2000)
    sizes = NEW[run.model]
    assert (sizes.decoder_only, sizes.reads_instruction) == (not t5, False)
    assert run.data.templates == ("continued_captions" if t5 else "captions")
    assert "vit/post_norm" in sizes.trainable_sets[run.trainable]


def test_an_unknown_variant_of_blip2_is_told_with_those_there_are():
    with pytest.raises(ValueError, match=r"no variant 'v9'.*v5e_4x4"):
        blip2("stage1", "v9")


@pytest.mark.parametrize(("hub", "width", "inner", "depth"), [("7b", 4096, 11008, 32), ("13b", 5120, 13824, 40)])
def test_llavas_sizes_are_what_the_public_file_says(tmp_path, hub, width, inner, depth):
    text = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32064}
    if hub == "13b":
        text |= {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": depth}
        text |= {"num_attention_heads": 40, "num_key_value_heads": 40}
    raw = {
        "model_type": "llava",
        "image_token_index": 32000,
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": text,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    read, known = hf_llava.read_config(tmp_path / "config.json"), PUBLIC[f"llava-hf/llava-1.5-{hub}-hf"]
    assert (read.text.hidden_size, read.text.intermediate_size, read.text.num_hidden_layers) == (width, inner, depth)
    explicit = dataclasses.replace(known.text, num_key_value_heads=read.text.num_key_value_heads)
    assert read == dataclasses.replace(known, text=explicit)
