"""The layout of Flamingo, our own: no weights of the paper are public. Tensors have the names of Hugging Face's CLIP,
LLaMA and OPT in the frozen parts, and OpenFlamingo's names in the trainable ones."""

import re
from pathlib import Path

from instructblip_jax.convert import language_models
from instructblip_jax.convert.config_fields import checked, fields, one_of, section_of
from instructblip_jax.convert.layouts import looking
from instructblip_jax.convert.parts import clip_vit, gated, resampler
from instructblip_jax.convert.rule import TRANSPOSE, Rule
from instructblip_jax.files import read_json
from instructblip_jax.models.bridges.gated import GatedConfig
from instructblip_jax.models.bridges.resampler import ResamplerConfig
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.processors.image import settings
from instructblip_jax.systems.flamingo import FlamingoConfig

KIND = "flamingo"
VIT, LLM = ("vit/", "vision_tower.vision_model."), ("llm/", "language_model.")
RESAMPLER, BLOCKS = "resampler_config", "cross_attention_config"
PERCEIVER, CROSS = "perceiver.", "gated_cross_attn_layers."
ADDED = "added_tokens.weight", "added_head.weight"
LANGUAGES = ("llama", "opt")


def read_config(path: Path) -> FlamingoConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    if raw.get("model_type") != KIND:
        raise ValueError(f"{path}: model_type is {raw.get('model_type')!r}; this layout is that of {KIND}")
    section = section_of(path, raw, "text_config")
    kind = one_of(path, "text_config.model_type", section.get("model_type"), LANGUAGES)
    text = language_models.LANGUAGE_MODELS[kind].read_config(path, section)
    vision = clip_vit.read_config(path, "vision_config", section_of(path, raw, "vision_config"))
    width = vision.hidden_size
    sizes, blocks = section_of(path, raw, RESAMPLER), section_of(path, raw, BLOCKS)
    bridge = ResamplerConfig(**{**fields(path, RESAMPLER, ResamplerConfig, sizes), "width": width})
    inner = {"inner": 4 * text.width, **fields(path, BLOCKS, GatedConfig, blocks)}
    between = GatedConfig(**{**inner, "width": text.width, "media_width": width})
    for name, own in ((RESAMPLER, bridge), (BLOCKS, between)):
        one_of(path, f"{name}.activation", own.activation, tuple(ACTIVATIONS))
    every = checked(path, f"{BLOCKS}.every", blocks.get("every"), int)
    at = checked(path, f"{BLOCKS}.at_id", blocks.get("at", 0), int)
    if at >= min(every, text.num_hidden_layers):
        raise ValueError(f"{path}: {BLOCKS}.at is {at}; it is a layer of a group of {every}, from 0, that there is")
    ids = {name: checked(path, name, raw.get(name), int) for name in ("image_token_id", "chunk_token_id")}
    known = checked(path, "known_tokens", raw.get("known_tokens", text.vocab_size), int)
    added = checked(path, "added_tokens", raw.get("added_tokens"), int)
    if known > text.vocab_size or not all(known <= token < known + added for token in ids.values()):
        raise ValueError(
            f"{path}: known_tokens {known} are at most the {text.vocab_size} of text_config, and image_token_id and "
            f"chunk_token_id are among the {added} added_tokens after them; they are {ids}"
        )
    return FlamingoConfig(
        vision,
        text,
        bridge,
        between,
        every=every,
        at=at,
        known_tokens=known,
        added_tokens=added,
        **ids,
        **looking.sight_fields(path, raw),
    )


def rules(config: FlamingoConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    tokens, head = ADDED
    table = [
        *clip_vit.rules(config.vision, *VIT, stored_grid=config.stored_image_size // config.vision.patch_size),
        *resampler.rules("bridge/resampler/", PERCEIVER),
        *gated.rules("bridge/layers/", CROSS, every=config.every, at=config.at),
        *language_models.of(config.text).rules(*LLM),
        Rule("added/tokens/embedding", tokens),
        Rule("added/to_vocab/kernel", head, TRANSPOSE),
    ]
    return {rule.ours: rule for rule in table}


def ignored(config: FlamingoConfig) -> re.Pattern[str]:
    """Names of tensors that old files of the parts hold on top: buffers."""
    tower = clip_vit.ignored(re.escape(VIT[1]))
    return re.compile(f"{tower}|{language_models.of(config.text).ignored(LLM[1])}")


def unread(config: FlamingoConfig) -> re.Pattern[str]:
    """Names of the tensors of the tower's last norm, which is only for its class token."""
    return re.compile(clip_vit.unread(config.vision, re.escape(VIT[1])))


def describe(directory: Path, config: FlamingoConfig) -> None:
    """See `looking.describe`."""
    side = config.vision.image_size
    square = {"height": side, "width": side}
    size = settings(directory)[2].get("size")
    cropped = isinstance(size, dict) and "shortest_edge" in size
    looking.describe(
        directory, config, {"size": {"shortest_edge": side}, "crop_size": square} if cropped else {"size": square}
    )
