"""Hugging Face's layout of KOSMOS-2, without its grounding; and ours of KOSMOS-1, which has the same names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked
from instructblip_jax.convert.parts import clip_vit, magneto
from instructblip_jax.convert.rule import Rule, dense
from instructblip_jax.files import read_json
from instructblip_jax.processors.tokenizer import TextTokenizer
from instructblip_jax.systems.kosmos import KosmosConfig

KINDS: Mapping[str, Mapping[str, Any]] = {
    "kosmos-2": {},
    "kosmos-1": {"positions": "xpos", "scale_embedding": False, "vocab_size": 64007},
}
"""model_type -> defaults of its text_config that differ from KOSMOS-2's."""
VIT, LLM, POOL = ("vit/", "vision_model.model."), ("llm/", "text_model.model."), "image_to_text_projection"
BOUNDARIES = {"image_begin_token_id": ("<image>", 64003), "image_end_token_id": ("</image>", 64004)}
"""Our own fields of config.json -> the token around an image, and its id in the public files, which lack the fields:
their tokenizer determines it."""
TOKENIZER = "tokenizer.json"
TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
"""Hugging Face's class defaults of a vision_config: CLIP ViT-L/14."""


def read_config(path: Path) -> KosmosConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    kind = str(raw.get("model_type"))
    if kind not in KINDS:
        raise ValueError(f"{path}: model_type is {kind!r}; this layout is that of {', '.join(KINDS)}")
    for name in ("vision_config", "text_config"):
        if not isinstance(raw.get(name) or {}, dict):
            raise ValueError(f"{path}: {name} is not an object")
    text = magneto.read_config(path, {**KINDS[kind], **(raw.get("text_config") or {})})
    vision = clip_vit.read_config(path, "vision_config", {**TOWER, **(raw.get("vision_config") or {})}, post_norm=True)
    if vision.num_hidden_layers < 2:
        raise ValueError(f"{path}: vision_config.num_hidden_layers is 1; a tower of at least 2 layers is supported")
    latents = checked(path, "latent_query_num", raw.get("latent_query_num", 64), int)
    first, last = (_boundary(path, raw, field) for field in BOUNDARIES)
    slots = range(KosmosConfig.first_slot, KosmosConfig.first_slot + latents)
    if max(first, last, slots[-1]) >= text.vocab_size or {first, last} & set(slots):
        raise ValueError(
            f"{path}: text_config.vocab_size is {text.vocab_size}, <image> {first}, </image> {last}, and an image "
            f"takes the ids {slots[0]} to {slots[-1]} (latent_query_num): each needs a row of its own in the embedding"
        )
    return KosmosConfig(vision, text, slots=latents, begin_id=first, end_id=last)


def _boundary(path: Path, raw: Mapping[str, Any], field: str) -> int:
    """The id of a token around an image."""
    token, public = BOUNDARIES[field]
    if raw.get(field) is not None:
        return checked(path, field, raw[field], int)
    if not (path.parent / TOKENIZER).is_file():
        return public
    found = TextTokenizer(path.parent).id_of(token)
    if found is None:
        raise ValueError(f"{path.parent / TOKENIZER}: has no token {token}, which must enclose every image")
    return found


def rules(config: KosmosConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    stored = config.stored_image_size // config.vision.patch_size
    table = [
        *clip_vit.rules(config.vision, *VIT, stored_grid=stored, last_apart=True),
        *magneto.rules(config.text, *LLM),
        *dense("pool/dense", f"{POOL}.dense"),
        Rule("pool/latents", f"{POOL}.latent_query"),
    ]
    for ours, theirs in zip("qkvo", ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True):
        table += dense(f"pool/attn/{ours}", f"{POOL}.x_attn.{theirs}")
    return {rule.ours: rule for rule in table}


def ignored(config: KosmosConfig) -> re.Pattern[str]:
    """Names of extra tensors in files: buffers, and the embedding's name as the head."""
    sinusoids = rf"{re.escape(LLM[1])}embed_positions\..+"
    return re.compile(rf"{clip_vit.ignored(re.escape(VIT[1]))}|text_model\.lm_head\.weight|{sinusoids}")
