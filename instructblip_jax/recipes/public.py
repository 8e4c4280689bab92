"""The sizes of the public models by hub id, so that planning needs neither network nor weights."""

import dataclasses

from instructblip_jax.models.bridges.gated import GatedConfig
from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.models.bridges.resampler import ResamplerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.magneto import MagnetoConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.towers.beats import BeatsConfig
from instructblip_jax.models.towers.nf_resnet import NfResNetConfig
from instructblip_jax.models.towers.point_bert import PointBertConfig
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.blip2_stage1 import Blip2Stage1Config
from instructblip_jax.systems.flamingo import FlamingoConfig
from instructblip_jax.systems.frozen import FrozenConfig
from instructblip_jax.systems.instructblip import InstructBlipConfig, TextConfig
from instructblip_jax.systems.kosmos import KosmosConfig
from instructblip_jax.systems.llava import LlavaConfig
from instructblip_jax.systems.protocol import SystemConfig
from instructblip_jax.systems.x_instructblip import MODALITIES, XInstructBlipConfig

VICUNA_7B = LlamaConfig(vocab_size=32064)
VICUNA_13B = LlamaConfig(
    vocab_size=32064, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
)
CLIP_L = VitConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    image_size=336,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    patch_bias=False,
    pre_norm=True,
    post_norm=False,
)
"""CLIP ViT-L/14 at 336 pixels, up to the layer that LLaVA uses: all but the last of its 24 layers."""

KOSMOS_CLIP = dataclasses.replace(CLIP_L.at(224), num_hidden_layers=24, post_norm=True)
"""The same at 224 pixels, with all layers, as in KOSMOS."""


def _model(text: TextConfig) -> InstructBlipConfig:
    """Vision tower and Q-Former are the same in all of these, and have the default sizes."""
    return InstructBlipConfig(VitConfig(), QFormerConfig(), text)


def _blip2(text: TextConfig) -> InstructBlipConfig:
    return InstructBlipConfig(VitConfig(), QFormerConfig(use_text=False), text)


def _llava(text: LlamaConfig, vision: VitConfig = CLIP_L) -> LlavaConfig:
    return LlavaConfig(vision, dataclasses.replace(text, rms_norm_eps=1e-5, pad_token_id=32001))


def _flamingo(text: LlamaConfig | OptConfig, every: int) -> FlamingoConfig:
    """Flamingo's resampler and blocks over CLIP ViT-L/14 at 224 pixels and another language model (arXiv 2204.14198,
    appendix: 64 latents, 16 heads of 96 in the resampler, heads of 128 in the blocks, squared ReLU)."""
    vision = dataclasses.replace(CLIP_L.at(224), num_hidden_layers=24)
    resampler = ResamplerConfig(1024, heads=16, head_size=96, activation="squared_relu", frames=8)
    width = text.hidden_size
    blocks = GatedConfig(width, 1024, 4 * width, heads=width // 128, head_size=128, activation="squared_relu")
    return FlamingoConfig(
        vision,
        text,
        resampler,
        blocks,
        every=every,
        at=0,
        known_tokens=text.vocab_size,
        added_tokens=2,
        chunk_token_id=text.vocab_size,
        image_token_id=text.vocab_size + 1,
    )


def _x_instructblip(text: LlamaConfig, *modalities: str) -> XInstructBlipConfig:
    """A model with the towers of these modalities."""
    towers = {"vision": VitConfig(post_norm=False), "audio": BeatsConfig(), "points": PointBertConfig()}
    read = {"image": "vision", "video": "vision", "audio": "audio", "pc": "points"}
    own = {read[name]: towers[read[name]] for name in modalities}
    return XInstructBlipConfig(text, QFormerConfig(), modalities, **own)  # type: ignore[arg-type]


def _idefics(text: LlamaConfig, every: int) -> FlamingoConfig:
    """Idefics-1: CLIP ViT-H/14 of LAION, and LLaMA's own sizes in the blocks."""
    vision = VitConfig(1280, 5120, 32, 16, layer_norm_eps=1e-5, patch_bias=False, pre_norm=True, post_norm=False)
    resampler = ResamplerConfig(1280, heads=16, head_size=96, activation="relu", head_norms=True)
    heads, width = text.num_attention_heads, text.hidden_size
    blocks = GatedConfig(
        width,
        1280,
        text.intermediate_size,
        heads,
        width // heads,
        "silu",
        swiglu=True,
        epsilon=text.rms_norm_eps,
        head_norms=True,
    )
    return FlamingoConfig(
        vision,
        text,
        resampler,
        blocks,
        every=every,
        at=0,
        known_tokens=32000,
        added_tokens=2,
        fake_token_id=32000,
        image_token_id=32001,
        class_token=True,
    )


FLAN_T5_XL = T5Config(d_model=2048, d_ff=5120, num_heads=32, num_layers=24, num_decoder_layers=24)
FLAN_T5_XXL = T5Config(d_model=4096, d_ff=10240, num_heads=64, num_layers=24, num_decoder_layers=24)
OPT_2_7B = OptConfig(vocab_size=50304, hidden_size=2560, ffn_dim=10240, num_hidden_layers=32, num_attention_heads=32)
OPT_1_3B = OptConfig(hidden_size=2048, ffn_dim=8192, num_hidden_layers=24, num_attention_heads=32)
OPT_6_7B = OptConfig(vocab_size=50304, hidden_size=4096, ffn_dim=16384, num_hidden_layers=32, num_attention_heads=32)
LLAMA_7B = LlamaConfig()
LLAMA_65B = LlamaConfig(
    hidden_size=8192, intermediate_size=22016, num_hidden_layers=80, num_attention_heads=64, rms_norm_eps=1e-5
)
STAGE1 = Blip2Stage1Config(VitConfig(), QFormerConfig())
"""BLIP-2's first stage as in the public files; our directories also have the language modelling head."""
PUBLIC: dict[str, SystemConfig] = {
    "Salesforce/instructblip-flan-t5-xl": _model(FLAN_T5_XL),
    "Salesforce/instructblip-flan-t5-xxl": _model(FLAN_T5_XXL),
    "Salesforce/instructblip-vicuna-7b": _model(VICUNA_7B),
    "Salesforce/instructblip-vicuna-13b": _model(VICUNA_13B),
    "Salesforce/blip2-itm-vit-g": STAGE1,
    "Salesforce/blip2-itm-vit-g-coco": dataclasses.replace(STAGE1, vision=VitConfig(image_size=364)),
    "llava-hf/llava-1.5-7b-hf": _llava(VICUNA_7B),
    "llava-hf/llava-1.5-13b-hf": _llava(VICUNA_13B),
    "HuggingFaceM4/idefics-9b": _idefics(LLAMA_7B, 4),
    "HuggingFaceM4/idefics-80b": _idefics(LLAMA_65B, 4),
    "microsoft/kosmos-2-patch14-224": KosmosConfig(KOSMOS_CLIP, MagnetoConfig()),
}
"""Hub id -> sizes. Token ids are the classes' defaults, because neither memory nor time depends on them."""
NEW: dict[str, SystemConfig] = {
    "blip2-stage1-new": dataclasses.replace(STAGE1, writes=True),
    "blip2-opt-2.7b-new": _blip2(OPT_2_7B),
    "blip2-opt-6.7b-new": _blip2(OPT_6_7B),
    "blip2-flan-t5-xl-new": _blip2(FLAN_T5_XL),
    "blip2-flan-t5-xxl-new": _blip2(FLAN_T5_XXL),
    "llava-1.5-7b-new": _llava(VICUNA_7B),
    "llava-1.5-13b-new": _llava(VICUNA_13B),
    "flamingo-9b-new": _flamingo(LLAMA_7B, 4),
    "flamingo-3b-new": _flamingo(OPT_1_3B, 1),
    "frozen-7b-new": FrozenConfig(NfResNetConfig(), LlamaConfig()),
    "kosmos-1-new": KosmosConfig(KOSMOS_CLIP, MagnetoConfig(vocab_size=64064, scale_embedding=False, positions="xpos")),
    **{
        f"x-instructblip-{name}-{size}-new": _x_instructblip(text, name)
        for name in MODALITIES
        for size, text in (("7b", VICUNA_7B), ("13b", VICUNA_13B))
    },
    "x-instructblip-7b": _x_instructblip(VICUNA_7B, *MODALITIES),
    **dict.fromkeys(("llava-1.0-7b-new", "llava-1.0-7b-stage1"), _llava(VICUNA_7B, CLIP_L.at(224))),
}
"""Sizes of the directories named in configurations that `assemble` and `export` make from public models."""
