"""Frozen as it is before its training: a language model, a new NF-ResNet-50 or a CLIP's tower, and a new linear map."""

import dataclasses
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.convert import clip_tower, vocabulary
from instructblip_jax.convert.assemble import Draft, constant, normal
from instructblip_jax.convert.layouts.frozen import CLIP, KIND, LANGUAGE, LLM, PREFIX, VISION
from instructblip_jax.convert.parts import nf_resnet
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.files import read_json
from instructblip_jax.models.towers.nf_resnet import NfResNetConfig
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD, PREPROCESSOR, settings


def draft(model_type: str, parts: Mapping[str, Path], seed: int, queries: int = 2) -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`.

    ``queries``: vectors of a picture.
    """
    language = parts["language"]
    path = language / "config.json"
    text, shards = read_json(path), open_shards(language)
    if text.get("model_type") not in LANGUAGE:
        raise ValueError(
            f"{path}: model_type is {text.get('model_type')!r}; a language model must be {' or '.join(LANGUAGE)}"
        )
    tensors: dict[str, Tensor] = {
        LLM[1] + name: stored(shards, name) for name in shards.shapes if not clip_tower.BUFFER.fullmatch(name)
    }
    if "vision" in parts:
        section, tower = clip_tower.read(parts["vision"], VISION[1])
        section, image = section | {"model_type": CLIP}, settings(parts["vision"])[2]
    else:
        section, tower, image = {"model_type": nf_resnet.KIND, **dataclasses.asdict(NfResNetConfig())}, {}, {}
    words = vocabulary.with_mark(language)
    side = section.get("image_size", 224)
    files: dict[str, dict[str, Any]] = {
        "config.json": {
            "architectures": ["FrozenForConditionalGeneration"],
            "model_type": KIND,
            "prefix_vectors": queries,
            "image_token_id": words.add(vocabulary.IMAGE),
            "text_config": {
                **{name: x for name, x in text.items() if name != "architectures"},
                "pad_token_id": words.id_of("pad_token"),
            },
            "vision_config": section,
        },
        PREPROCESSOR: {
            "do_pad": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "image_processor_type": "CLIPImageProcessor",
            "image_mean": image.get("image_mean", list(CLIP_MEAN)),
            "image_std": image.get("image_std", list(CLIP_STD)),
            "resample": image.get("resample", 3),
            "rescale_factor": image.get("rescale_factor", 1 / 255),
            "size": {"height": side, "width": side},
        },
    }
    return Draft({**tower, **tensors}, files, {"": words}, language, partial(_draw, seed=seed))


def _draw(name: str, shape: Shape, *, seed: int) -> Lazy | None:
    """Initial values: weights normal(0, 1 / sqrt(in)), gains 1, biases 0, and each residual branch closed."""
    if not name.startswith((VISION[1], f"{PREFIX}.")):
        return None
    if name.endswith((".bias", ".skip_gain")):
        return constant(shape, 0.0)
    if name.endswith(".gain"):
        return constant(shape, 1.0)
    inputs = 1
    for size in shape[1:]:
        inputs *= size
    return normal(shape, inputs**-0.5, seed, zlib.crc32(name.encode()))
