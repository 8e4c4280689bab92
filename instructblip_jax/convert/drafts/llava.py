"""LLaVA before stage 1, from a CLIP tower and a LLaMA (Vicuna); or from the authors' repository and a tower.

The authors' repositories (liuhaotian/llava-v1.5-7b and others) have a language model and a projector, and name a tower.
"""

import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import clip_tower, vocabulary
from instructblip_jax.convert.assemble import Draft
from instructblip_jax.convert.ingredients import PROJECTORS
from instructblip_jax.convert.layouts.hf_llava import ASPECT, LLM, PROJECTOR, VIT
from instructblip_jax.convert.new_rows import grow
from instructblip_jax.convert.parts import clip_vit
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import Shards, open_shards
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.files import read_json
from instructblip_jax.processors.image import PREPROCESSOR, PROCESSOR, settings

EMBEDDING = f"{LLM[1]}model.embed_tokens.weight"
TABLES = {EMBEDDING, f"{LLM[1]}lm_head.weight"}
"""Tensors with one row per token."""
THEIRS = "model.mm_projector."
"""Prefix of the projector in the authors' files."""
LINEAR = {"weight": "linear_1.weight", "bias": "linear_1.bias"}
MLP = {f"{place}.{kind}": f"linear_{n}.{kind}" for n, place in ((1, 0), (2, 2)) for kind in ("weight", "bias")}
"""The authors' names of a linear and of a two-layer projector -> those in Hugging Face's layout."""
FEATURES = {"patch": "default", "cls_patch": "full"}
"""mm_vision_select_feature -> vision_feature_select_strategy."""


def draft(model_type: str, parts: Mapping[str, Path], seed: int, projector: str = PROJECTORS[0]) -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`.

    "language": a plain LLaMA directory, or one of the authors', whose projector is also used. ``projector``: the kind
    of a new one, one of `convert.ingredients.PROJECTORS`.
    """
    vision, language = parts["vision"], parts["language"]
    section, tower = clip_tower.read(vision, VIT[1])
    tensors: dict[str, Tensor] = {**tower}
    text, words, act, options = _language(language, projector)
    tensors |= words
    vocabulary_ = vocabulary.with_image(language, "LlavaProcessor")
    grow(tensors, TABLES & tensors.keys(), vocabulary_.size, seed)
    rows = tensors[EMBEDDING].shape[0]
    image, pad = vocabulary_.add(vocabulary.IMAGE), vocabulary_.id_of("pad_token")
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": image,
        "model_type": "llava",
        "pad_token_id": pad,
        "projector_hidden_act": act,
        "text_config": text | {"model_type": "llama", "vocab_size": rows},
        "tie_word_embeddings": False,
        "vision_config": section,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        **options,
    }
    names = ("bos_token_id", "eos_token_id")
    ends = {name: text[name] for name in names if text.get(name) is not None}
    patch = section.get("patch_size") or clip_vit.DEFAULTS["patch_size"]
    files = {
        "config.json": config,
        "generation_config.json": {"_from_model_config": True, "pad_token_id": pad, **ends},
        PREPROCESSOR: settings(vision)[2] | {"processor_class": "LlavaProcessor"},
        PROCESSOR: {
            "image_token": vocabulary.IMAGE,
            "num_additional_image_tokens": 1,
            "patch_size": patch,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": config["vision_feature_select_strategy"],
        },
    }
    return Draft(tensors, files, {"": vocabulary_}, language, partial(_draw, act=act, seed=seed))


def _language(directory: Path, projector: str) -> tuple[dict[str, Any], dict[str, Tensor], str, dict[str, Any]]:
    """text_config, tensors, the projector's activation, and the fields of config.json that depend on the language
    model.

    Raises ValueError for another model.
    """
    path = directory / "config.json"
    raw, shards = read_json(path), open_shards(directory)
    theirs = [name for name in shards.shapes if name.startswith(THEIRS)]
    text = {name: x for name, x in raw.items() if not name.startswith(("mm_", "tune_mm", "use_mm", "tokenizer_"))}
    for name in ("architectures", "image_aspect_ratio", "freeze_mm_mlp_adapter"):
        text.pop(name, None)
    tensors: dict[str, Tensor] = {
        LLM[1] + name: stored(shards, name)
        for name in shards.shapes
        if not (name in theirs or clip_tower.BUFFER.fullmatch(name) or name.startswith("model.vision_tower."))
    }
    if not theirs and raw.get("model_type") == "llama":
        return text, tensors, "linear" if projector == "linear" else "gelu", {}
    if not theirs:
        raise ValueError(
            f"{path}: model_type is {raw.get('model_type')!r}, and the files have no {THEIRS}*; a language model must "
            "be llama, or one of the LLaVA authors' repositories"
        )
    act, own = _authors_projector(directory, shards, theirs)
    feature = raw.get("mm_vision_select_feature") or "patch"
    if feature not in FEATURES:
        raise ValueError(f"{path}: mm_vision_select_feature is {feature!r}; expected one of {', '.join(FEATURES)}")
    options = {
        "vision_feature_layer": raw.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": FEATURES[feature],
    }
    if raw.get("image_aspect_ratio"):
        options[ASPECT] = raw["image_aspect_ratio"]
    return text, tensors | own, act, options


def _authors_projector(directory: Path, shards: Shards, names: list[str]) -> tuple[str, dict[str, Tensor]]:
    """The activation of the authors' projector, and its tensors by Hugging Face's names."""
    kinds = {
        frozenset(THEIRS + name for name in kind): (kind, act) for kind, act in ((LINEAR, "linear"), (MLP, "gelu"))
    }
    if frozenset(names) not in kinds:
        raise ValueError(
            f"{directory}: its projector is {', '.join(sorted(names))}; a linear one and mlp2x_gelu are supported"
        )
    kind, act = kinds[frozenset(names)]
    return act, {PROJECTOR + hf: stored(shards, THEIRS + name) for name, hf in kind.items()}


def _draw(name: str, shape: Shape, *, act: str, seed: int) -> Lazy | None:
    """A new projector, initialised as torch linear layers: uniform(-1/sqrt(in), 1/sqrt(in)); the second one of a linear
    projector is the identity."""
    if not name.startswith(PROJECTOR):
        return None

    def make() -> np.ndarray:
        if act == "linear" and "linear_2" in name:
            return np.eye(shape[0], dtype=np.float32) if len(shape) == 2 else np.zeros(shape, np.float32)
        bound = shape[-1] ** -0.5
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return Lazy(shape, np.dtype(np.float32), make)
