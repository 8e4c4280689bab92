"""Flamingo before training, from a CLIP tower and a LLaMA or OPT: new resampler and blocks, closed gates."""

import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.convert import clip_tower, vocabulary
from instructblip_jax.convert.assemble import Draft, constant, normal, uniform
from instructblip_jax.convert.layouts.flamingo import ADDED, BLOCKS, CROSS, LANGUAGES, LLM, PERCEIVER, RESAMPLER, VIT
from instructblip_jax.convert.new_rows import SCALE
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.files import read_json
from instructblip_jax.processors.image import PREPROCESSOR, settings

WIDE = 1024
"""Width of the towers for which the number of heads is meant; for a narrower tower there are fewer heads."""
LATENTS, EVERY = 64, 4
"""From the paper (arXiv 2204.14198, appendix): number of latents, and of layers per block in the 9B model."""
HEAD = 128
"""Head size of the blocks, from the same appendix."""
NEW_RESAMPLER = {"depth": 6, "heads": 16, "head_size": 96, "activation": "squared_relu", "frames": 8}
"""From the same appendix, and the number of frames of a training video."""


def draft(model_type: str, parts: Mapping[str, Path], seed: int, every: int = EVERY, queries: int = LATENTS) -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`. ``every``: number
    of layers per group; a block precedes its first layer. ``queries``: number of the resampler's latents."""
    vision, language = parts["vision"], parts["language"]
    section, tensors = clip_tower.read(vision, VIT[1])
    text, words = _language(language)
    own = vocabulary.with_mark(language, vocabulary.CHUNK)
    chunk, image = own.add(vocabulary.CHUNK), own.add(vocabulary.IMAGE)
    known = min(chunk, image)
    width = text["hidden_size"]
    config = {
        "architectures": ["FlamingoForConditionalGeneration"],
        "model_type": model_type,
        "added_tokens": own.size - known,
        "chunk_token_id": chunk,
        "image_token_id": image,
        "known_tokens": known,
        "text_config": text | {"pad_token_id": own.id_of("pad_token")},
        "vision_config": section,
        RESAMPLER: NEW_RESAMPLER | {"latents": queries, "heads": -(-16 * min(section["hidden_size"], WIDE) // WIDE)},
        BLOCKS: {
            "every": every,
            "at": 0,
            "heads": max(1, width // HEAD),
            "head_size": HEAD,
            "inner": 4 * width,
            "activation": "squared_relu",
        },
    }
    files = {"config.json": config, PREPROCESSOR: settings(vision)[2]}
    return Draft(tensors | words, files, {"": own}, language, partial(_draw, seed=seed))


def _language(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """text_config and tensors of a plain language model. Raises ValueError for another one."""
    path = directory / "config.json"
    raw = read_json(path)
    if raw.get("model_type") not in LANGUAGES:
        raise ValueError(
            f"{path}: model_type is {raw.get('model_type')!r}; a language model must be {' or '.join(LANGUAGES)}"
        )
    shards = open_shards(directory)
    text = {name: x for name, x in raw.items() if name != "architectures"}
    return text, {
        LLM[1] + name: stored(shards, name) for name in shards.shapes if not clip_tower.BUFFER.fullmatch(name)
    }


def _draw(name: str, shape: Shape, *, seed: int) -> Lazy | None:
    """A new tensor, initialised as in OpenFlamingo: linear layers as in torch, latents and frame embeddings normal(0,
    1), closed gates; embeddings of added tokens normal(0, 0.02), as in Hugging Face."""
    own = (seed, zlib.crc32(name.encode()))
    if name in ADDED:
        return normal(shape, SCALE, *own)
    if not name.startswith((PERCEIVER, CROSS)):
        return None
    if name.endswith(("_gate", ".bias")):
        return constant(shape, 0)
    if name.endswith(("latents", "_embs")):
        return normal(shape, 1.0, *own)
    return constant(shape, 1) if len(shape) == 1 else uniform(shape, *own)
