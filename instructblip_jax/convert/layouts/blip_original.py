"""BLIP's own files (.pth) -> a model directory. Values are equal; the tower's tensors have other names.

Sizes are derived from the tensors, except for the number of BERT's heads, which its config.json has; a ViT's head size
is 64.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from instructblip_jax.convert.assemble import Draft
from instructblip_jax.convert.config_fields import fields
from instructblip_jax.convert.drafts import blip as drafts
from instructblip_jax.convert.layouts.albef import VIT
from instructblip_jax.convert.layouts.albef_original import text_config, vision_config
from instructblip_jax.convert.layouts.hf_blip import DECODER, ENCODER, HEAD
from instructblip_jax.convert.layouts.hf_blip import VIT as TOWER
from instructblip_jax.convert.parts import timm_vit
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.write import Tensor
from instructblip_jax.models.towers.vit import VitConfig

SKIPPED = re.compile(
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\..+|(image|text|idx)_queue|queue_ptr|ptr_queue"
    r"|text_(en|de)coder\.(bert\.)?embeddings\.position_ids"
)
"""Momentum copies, queues, buffers."""
_CROSS = "encoder.layer.0.crossattention."
_MERGE = re.compile(rf"{re.escape(ENCODER)}encoder\.layer\.(\d+)\.crossattention\.output\.merge_layer\.weight")
_FIRST = (f"{ENCODER}{_CROSS}self.query.weight", f"{ENCODER}{_CROSS}self0.query.weight")
"""One of these is in the file of every form except captioning: BLIP's first layer attends to the image, ALBEF's does
not."""


def draft(path: Path, found: Mapping[str, np.ndarray], bert: Path, seed: int) -> tuple[Draft, list[str]] | None:
    """A directory of the form to which a file's tensors belong, with BERT's tokenizer, and the names that were skipped;
    None for the tensors of another system.

    Args:
      path: the file, for errors.
      found: original name -> tensor.
      bert: BERT's directory.
      seed: unused, because these files are complete.

    Raises ValueError naming what does not fit.
    """
    skipped = [name for name in found if SKIPPED.fullmatch(name)]
    task = _task(found.keys() - set(skipped))
    if task is None:
        return None
    prefix = DECODER if task == "captioning" else ENCODER
    vision, text = vision_config(path, found), text_config(path, found, prefix, bert)
    if task == "reasoning":
        text["merge_layer"] = min(int(match[1]) for match in map(_MERGE.fullmatch, found) if match)
    names = timm_vit.hugging_face(VitConfig(**fields(path, "", VitConfig, vision)))
    skipped += _aliases(path, found, task)
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if name not in skipped:
            tower = names.get(name.removeprefix(VIT)) if name.startswith(VIT) else None
            tensors[name if tower is None else TOWER[1] + tower] = tensor
    more = {}
    if "vision_proj.weight" in found:
        more["image_text_hidden_size"] = found["vision_proj.weight"].shape[0]
    return drafts.whole(vision, text, more, tensors, bert, path, task, _nothing), sorted(skipped)


def _nothing(name: str, shape: Shape) -> None:
    """No tensor is drawn."""


def _task(names: Collection[str]) -> str | None:
    """The form of a file with tensors of these names."""
    if f"{VIT}pos_embed" not in names:
        return None
    writes = f"{HEAD}bias" in names
    if writes and not any(name.startswith(ENCODER) for name in names):
        return "captioning"
    if not any(name in names for name in _FIRST):
        return None
    if "itm_head.weight" in names:
        return "pretraining" if writes else "retrieval"
    if writes:
        return "question_answering"
    return "reasoning" if any(map(_MERGE.fullmatch, names)) else None


def _aliases(path: Path, found: Mapping[str, np.ndarray], task: str) -> list[str]:
    """Duplicate tensors: a head's matrix and bias, and in pre-training those that the decoder shares with the encoder.
    Raises ValueError if they differ."""
    words = "embeddings.word_embeddings.weight"
    own = {
        f"{HEAD}decoder.weight": f"{ENCODER if task == 'pretraining' else DECODER}{words}",
        f"{HEAD}decoder.bias": f"{HEAD}bias",
    }
    if task == "pretraining":
        for name in found:
            plain = name.removeprefix(DECODER)
            if plain != name and ".attention." not in plain and not SKIPPED.fullmatch(name):
                own[name] = ENCODER + plain
    aliases = {name: other for name, other in own.items() if name in found}
    for name, other in aliases.items():
        if other not in found or not np.array_equal(found[name], found[other]):
            raise ValueError(f"{path}: {name} is not {other}, to which it is tied")
    return list(aliases)
