"""KOSMOS-1 before training (arXiv 2302.14045): CLIP's tower, a new connector, and a randomly initialised decoder."""

import math
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.convert import clip_tower, vocabulary
from instructblip_jax.convert.assemble import Draft, constant, normal, uniform
from instructblip_jax.convert.layouts.hf_kosmos import BOUNDARIES, KINDS, LLM, POOL, TOWER, VIT
from instructblip_jax.convert.new_rows import ROWS_MULTIPLE
from instructblip_jax.convert.parts import magneto
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.write import Lazy
from instructblip_jax.files import read_json
from instructblip_jax.models.language.magneto import MagnetoConfig
from instructblip_jax.processors.image import PREPROCESSOR, settings

KIND = "kosmos-1"
COLOURS = ("image_mean", "image_std", "resample", "rescale_factor")
"""Image settings taken from the tower; images are resized to a square without cropping."""
SUB_NORMED = ("v_proj", "out_proj", "fc1", "fc2")
"""Linear layers of the decoder with larger initial values, because of the sub-layer norms (arXiv 2210.06423, section
3.3)."""


def draft(model_type: str, parts: Mapping[str, Path], seed: int) -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`.

    "language": a tokenizer, and sizes if they are not the paper's: a config.json with this model_type.
    """
    language = parts["language"]
    vision, tensors = clip_tower.read(parts["vision"], VIT[1])
    words = vocabulary.with_boundaries(language, BOUNDARIES)
    sizes = _sizes(language)
    text = {
        **KINDS[KIND],
        **(sizes.get("text_config") or {}),
        "vocab_size": -(-words.size // ROWS_MULTIPLE) * ROWS_MULTIPLE,
        **{f"{name}_token_id": words.id_of(f"{name}_token") for name in ("bos", "eos", "pad")},
    }
    config = magneto.read_config(language / "config.json", text)  # raises, naming the field
    tower = settings(parts["vision"])[2]
    side, seen = (vision.get(name, TOWER[name]) for name in ("image_size", "hidden_size"))
    files: dict[str, dict[str, Any]] = {
        "config.json": {
            "architectures": ["Kosmos1ForConditionalGeneration"],
            "model_type": KIND,
            "latent_query_num": sizes.get("latent_query_num", 64),
            **{field: words.add(token) for field, (token, _) in BOUNDARIES.items()},
            "text_config": {**text, "model_type": "kosmos_1_text_model"},
            "vision_config": vision,
        },
        PREPROCESSOR: {
            **{name: tower[name] for name in COLOURS if name in tower},
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "image_processor_type": "CLIPImageProcessor",
            "size": {"height": side, "width": side},
        },
    }
    return Draft({**tensors}, files, {"": words}, language, partial(draw, config=config, seen=seen, seed=seed))


def _sizes(directory: Path) -> dict[str, Any]:
    """The config.json next to the tokenizer, if it is of this system; the sizes of another model are ignored."""
    path = directory / "config.json"
    raw = read_json(path) if path.is_file() else {}
    return raw if raw.get("model_type") == KIND else {}


def draw(name: str, shape: Shape, *, config: MagnetoConfig, seen: int, seed: int) -> Lazy | None:
    """Initial values as in torchscale: a linear layer's weights and biases uniform(-1 / sqrt(in), 1 / sqrt(in)),
    those of `SUB_NORMED` times sqrt(log(2 L)), L the number of layers; words normal(0, 1 / sqrt(D)); latents normal(0,
    1). ``seen``: the tower's width."""
    key = (seed, zlib.crc32(name.encode()))
    if name == f"{POOL}.latent_query":
        return normal(shape, 1.0, *key)
    if name == f"{LLM[1]}embed_tokens.weight":
        return normal(shape, config.width**-0.5, *key)
    if not name.startswith((LLM[1], f"{POOL}.")):
        return None
    layer, _, kind = name.rpartition(".")
    if layer.endswith(("norm", "_ln")):
        return constant(shape, float(kind == "weight"))
    inputs = config.ffn_dim if layer.endswith("fc2") else seen if layer == f"{POOL}.dense" else config.width
    gain = math.sqrt(math.log(2 * config.layers)) if layer.startswith(LLM[1]) and layer.endswith(SUB_NORMED) else 1.0
    return uniform(shape, *key, bound=gain * inputs**-0.5)
