"""The tensors of the original project (its ``.pth`` files) -> Hugging Face names. Values and shapes are equal.

InstructBLIP's files contain the trained parts: query tokens, the norm after the vision tower, Q-Former and projection.
Those of BLIP-2's first stage also contain its heads, and some of them the tower.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from instructblip_jax.convert.assemble import wanted
from instructblip_jax.convert.layouts import hf_blip2_retrieval, hf_instructblip
from instructblip_jax.convert.layouts.hf_instructblip import QFORMER
from instructblip_jax.convert.parts import qformer
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.systems.blip2_stage1 import Blip2Stage1Config
from instructblip_jax.systems.instructblip import InstructBlipConfig

BERT = r"Qformer\.bert\."
_LAYERS = (
    (BERT + r"(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.(.+)", r"qformer.\1.attention.\2"),
    (BERT + r"(encoder\.layer\.\d+\.(?:cross)?attention\.output\..+)", r"qformer.\1"),
    (BERT + r"(encoder\.layer\.\d+\.(?:intermediate|output)(?:_query)?\..+)", r"qformer.\1"),
)
_NORM = (r"ln_vision\.(weight|bias)", r"vision_model.post_layernorm.\1")
_QUERIES = (r"query_tokens", r"query_tokens")


@dataclasses.dataclass(frozen=True)
class Original:
    """The original's files of one system.

    Attributes:
      names: (pattern, Hugging Face name) pairs.
      skipped: names of tensors that the system does not need.
      replaced: prefixes of Hugging Face names; such a file must contain every tensor under them.
    """

    names: tuple[tuple[str, str], ...]
    skipped: re.Pattern[str]
    replaced: tuple[str, ...]

    def hugging_face_name(self, name: str) -> str | None:
        """The name in the public layout, or None for an unknown one."""
        for theirs, ours in self.names:
            if match := re.fullmatch(theirs, name):
                return match.expand(ours)
        return None


INSTRUCTBLIP = Original(
    (
        _QUERIES,
        _NORM,
        (r"(?:t5|llm|opt)_proj\.(weight|bias)", r"language_projection.\1"),
        (BERT + r"embeddings\.((?:word|position)_embeddings\.weight)", r"qformer.embeddings.\1"),
        (BERT + r"embeddings\.LayerNorm\.(weight|bias)", r"qformer.embeddings.layernorm.\1"),
        *_LAYERS,
    ),
    # Heads that only BLIP-2's first stage uses, and a buffer.
    re.compile(r"Qformer\.cls\..+|(vision_proj|text_proj|itm_head)\..+|temp|Qformer\.bert\.embeddings\.position_ids"),
    ("query_tokens", "qformer.", "language_projection.", "vision_model.post_layernorm."),
)
_BLOCK = r"visual_encoder\.blocks\.(\d+)\."
_TOWER = r"vision_model.encoder.layers.\1."
BLIP2_STAGE1 = Original(
    (
        _QUERIES,
        _NORM,
        (BERT + r"embeddings\.((?:word|position)_embeddings\.weight)", rf"{hf_blip2_retrieval.EMBEDDINGS}\1"),
        (BERT + r"embeddings\.LayerNorm\.(weight|bias)", rf"{hf_blip2_retrieval.FIRST_NORM}.\1"),
        *_LAYERS,
        (r"(vision|text)_proj\.(weight|bias)", r"\1_projection.\2"),
        (r"(itm_head\.(?:weight|bias)|temp)", r"\1"),
        (r"Qformer\.(cls\.predictions\.(?:bias|transform\..+))", r"\1"),
        (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
        (r"visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
        (r"visual_encoder\.patch_embed\.proj\.(weight|bias)", r"vision_model.embeddings.patch_embedding.\1"),
        (_BLOCK + r"norm([12])\.(weight|bias)", _TOWER + r"layer_norm\2.\3"),
        (_BLOCK + r"attn\.(qkv\.(?:weight|bias))", _TOWER + r"self_attn.\2"),
        (_BLOCK + r"attn\.proj\.(weight|bias)", _TOWER + r"self_attn.projection.\2"),
        (_BLOCK + r"(mlp\.fc[12]\.(?:weight|bias))", _TOWER + r"\2"),
    ),
    re.compile(r"Qformer\.cls\.predictions\.decoder\.(weight|bias)|Qformer\.bert\.embeddings\.position_ids"),
    (
        *("query_tokens", "qformer.", "embeddings.", "vision_projection.", "text_projection.", "itm_head."),
        "vision_model.post_layernorm.",
    ),
)
_HEAD = re.compile(r"Qformer\.cls\.predictions\.(bias|transform\..+)")
_BUFFERS = re.compile(qformer.ignored(QFORMER[1]))


def instructblip(
    file: Path, tensors: Mapping[str, np.ndarray], directory: Path
) -> tuple[InstructBlipConfig, dict[str, np.ndarray], list[str]]:
    """See `families.Family.replaced`: Q-Former, query tokens, vision norm and projection."""
    config = hf_instructblip.read_config(directory / "config.json")
    shapes = open_shards(directory).shapes
    return config, *rename(str(file), tensors, str(directory), shapes, INSTRUCTBLIP)


def blip2_stage1(
    file: Path, tensors: Mapping[str, np.ndarray], directory: Path
) -> tuple[Blip2Stage1Config, dict[str, np.ndarray], list[str]]:
    """See `families.Family.replaced`: everything except the tower, and also the tower if the file has it.

    The temperature and the language modelling head are used if the file has both.
    """
    config = hf_blip2_retrieval.read_config(directory / "config.json")
    config = dataclasses.replace(config, writes="temp" in tensors and any(map(_HEAD.fullmatch, tensors)))
    original = BLIP2_STAGE1
    if config.writes:
        original = dataclasses.replace(original, replaced=(*original.replaced, "temp", hf_blip2_retrieval.HEAD[1]))
    else:
        skipped = re.compile(f"{original.skipped.pattern}|{_HEAD.pattern}|temp")
        original = dataclasses.replace(original, skipped=skipped)
    shapes = {**open_shards(directory).shapes, **wanted(config, hf_blip2_retrieval.rules(config))}
    return config, *rename(str(file), joined_biases(tensors), str(directory), shapes, original)


def joined_biases(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with the EVA tower's query and value biases fused into one bias; its keys have none."""
    found = dict(tensors)
    for name in tensors:
        if name.endswith(".attn.q_bias"):
            block = name.removesuffix("q_bias")
            query, value = found.pop(name), found.pop(f"{block}v_bias", None)
            if value is None:
                raise ValueError(f"{block}q_bias has no matching {block}v_bias")
            found[f"{block}qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])
    return found


def rename(
    path: str, tensors: Mapping[str, np.ndarray], base: str, shapes: Mapping[str, Shape], original: Original
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rename original tensors to Hugging Face names; returns them, and the names that were skipped.

    Args:
      path: the file, for errors.
      tensors: original name -> tensor.
      base: the model directory whose tensors they replace, for errors.
      shapes: Hugging Face name -> shape of every tensor that they may replace.
      original: the names of its system.

    Raises one ValueError that lists every missing, mis-shaped, duplicate and unknown tensor of the file.
    """
    renamed: dict[str, np.ndarray] = {}
    skipped, wrong = [], []
    for name, tensor in tensors.items():
        if original.skipped.fullmatch(name):
            skipped.append(name)
            continue
        new = original.hugging_face_name(name)
        if new is None or new not in shapes:
            wrong.append(f"unexpected  {name} {list(tensor.shape)}")
        elif new in renamed:
            wrong.append(f"duplicate   {name}, as {new}")
        elif tensor.shape != shapes[new]:
            wrong.append(f"mis-shaped  {name} {list(tensor.shape)}, {base} has {list(shapes[new])}")
        if new is not None:
            renamed[new] = tensor
    for name, shape in shapes.items():
        if name.startswith(original.replaced) and name not in renamed and not _BUFFERS.fullmatch(name):
            wrong.append(f"missing     {name} {list(shape)}")
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} tensors do not fit {base}:\n  " + "\n  ".join(sorted(wrong)))
    return renamed, skipped
