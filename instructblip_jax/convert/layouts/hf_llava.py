"""Hugging Face's layout of LLaVA: as llava-hf published it in 2023, and as transformers 5 writes it."""

import re
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked, one_of
from instructblip_jax.convert.parts import clip_vit, llama
from instructblip_jax.convert.rule import Rule, dense, renamed
from instructblip_jax.files import read_json, write_json
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.processors.image import write_sizes
from instructblip_jax.systems.llava import ASPECTS, CONVERSATIONS, LlavaConfig

KIND = "llava"
VIT, LLM = ("vit/", "vision_tower.vision_model."), ("llm/", "language_model.")
PROJECTOR = "multi_modal_projector."
NEWER = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    (VIT[1], "vision_tower."),
    (VIT[1], "model.vision_tower.vision_model."),
    (VIT[1], "model.vision_tower."),
    (PROJECTOR, f"model.{PROJECTOR}"),
)
"""Prefixes of the published names, and the corresponding ones in files written by transformers 5."""
MODULES = (("language_model.model.", "model.language_model."), (PROJECTOR, f"model.{PROJECTOR}"))
"""See `families.Family`."""
TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""Hugging Face's sizes if there is no vision_config: CLIP ViT-L/14 at 336 pixels."""
STRATEGIES = ("default", "full")
"""Values of vision_feature_select_strategy: only patches, or also the class token."""
TEMPLATE, ASPECT = "conversation_template", "image_aspect_ratio"
"""Our own fields, in which an exported model keeps its template; the second has the authors' name."""


def read_config(path: Path) -> LlavaConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    if raw.get("model_type") != KIND:
        raise ValueError(f"{path}: model_type is {raw.get('model_type')!r}; this layout is that of {KIND}")
    if "mm_vision_tower" in raw:
        raise ValueError(
            f"{path}: mm_vision_tower is a field of the authors' own repositories, which have no vision tower; make a "
            "complete model: instructblip assemble llava --language THIS_DIRECTORY --vision CLIP --out DIR"
        )
    for name in ("vision_config", "text_config"):
        if not isinstance(raw.get(name) or {}, dict):
            raise ValueError(f"{path}: {name} is not an object")
    text_section: dict[str, Any] = raw.get("text_config") or {}
    if text_section.get("model_type", "llama") != "llama":
        raise ValueError(f"{path}: text_config.model_type is {text_section['model_type']!r}; only llama is supported")
    if raw.get("pad_token_id") is not None:
        text_section = text_section | {"pad_token_id": checked(path, "pad_token_id", raw["pad_token_id"], int)}
    if raw.get("multimodal_projector_bias") is False:
        raise ValueError(f"{path}: multimodal_projector_bias is false; only projectors with a bias are supported")
    vision = clip_vit.read_config(path, "vision_config", raw.get("vision_config") or TOWER)
    depth = _depth(path, raw.get("vision_feature_layer", -2), vision.num_hidden_layers)
    image = next((raw[name] for name in ("image_token_id", "image_token_index") if raw.get(name) is not None), 32000)
    act = raw.get("projector_hidden_act") or "gelu"
    text = llama.read_config(path, text_section)
    if checked(path, "image_token_index", image, int) >= text.vocab_size:
        raise ValueError(
            f"{path}: image_token_index is {image}, and text_config.vocab_size {text.vocab_size} gives it no row; the "
            "first files of llava-hf had 31064 for 32064: correct it to the rows of the embedding"
        )
    return LlavaConfig(
        clip_vit.cut(vision, depth),
        text,
        projector_act=one_of(path, "projector_hidden_act", act, ("linear", *ACTIVATIONS)),
        image_token_id=image,
        class_token=one_of(
            path, "vision_feature_select_strategy", raw.get("vision_feature_select_strategy", "default"), STRATEGIES
        )
        == "full",
        conversation=one_of(path, TEMPLATE, raw.get(TEMPLATE) or CONVERSATIONS[0], CONVERSATIONS),
        image_aspect_ratio=one_of(path, ASPECT, raw.get(ASPECT) or "", ("", *ASPECTS)),
    )


def _depth(path: Path, layer: Any, layers: int) -> int:
    """Number of the tower's layers up to the one whose output is used; a negative number counts from the last."""
    if isinstance(layer, list) and len(layer) == 1:
        (layer,) = layer
    if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= (layer % (layers + 1)) <= layers:
        raise ValueError(
            f"{path}: vision_feature_layer is {layer!r}; it is one layer of the tower, 1 to {layers} or -1 to -{layers}"
        )
    return layer % (layers + 1)


def rules(config: LlavaConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    table = [
        *clip_vit.rules(config.vision, *VIT, stored_grid=config.stored_image_size // config.vision.patch_size),
        *dense("projector/first", f"{PROJECTOR}linear_1"),
        *dense("projector/second", f"{PROJECTOR}linear_2"),
        *llama.rules(*LLM),
    ]
    return {rule.ours: rule for rule in renamed(table, NEWER)}


def _spellings(prefix: str) -> str:
    return "|".join(re.escape(other) for old, other in ((prefix, prefix), *NEWER) if old == prefix)


def ignored(config: LlavaConfig) -> re.Pattern[str]:
    """Names of extra tensors in old files: buffers."""
    tower = f"({_spellings(VIT[1])})"
    return re.compile(f"{clip_vit.ignored(tower)}|{llama.ignored(LLM[1])}")


def unread(config: LlavaConfig) -> re.Pattern[str]:
    """Names of the tower's tensors after the layer whose output is used."""
    return re.compile(clip_vit.unread(config.vision, f"({_spellings(VIT[1])})"))


def describe(directory: Path, config: LlavaConfig) -> None:
    """Write the system's options into a model directory's configuration files, if they differ from the stored ones."""
    path = directory / "config.json"
    raw = read_json(path)
    for field, value, default in (
        (TEMPLATE, config.conversation, CONVERSATIONS[0]),
        (ASPECT, config.image_aspect_ratio, ""),
    ):
        if value != (raw.get(field) or default):
            raw[field] = value
    if config.stored_image_size:
        side = config.vision.image_size
        raw["vision_config"] = (raw.get("vision_config") or TOWER) | {"image_size": side}
        write_sizes(directory, {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}})
    if raw != read_json(path):
        write_json(path, raw)
