"""The trained tensors of the original project (its ``.pth`` files) -> Hugging Face names. Values and shapes are equal.

Such a file holds the trained parts: query tokens, the norm after the vision tower, Q-Former and projection.
"""

import re
from collections.abc import Mapping

import numpy as np

from instructblip_jax.convert.layouts.hf_instructblip import QFORMER
from instructblip_jax.convert.parts import qformer
from instructblip_jax.convert.rule import Shape

_NAMES = (
    (r"query_tokens", r"query_tokens"),
    (r"ln_vision\.(weight|bias)", r"vision_model.post_layernorm.\1"),
    (r"(?:t5|llm|opt)_proj\.(weight|bias)", r"language_projection.\1"),
    (r"Qformer\.bert\.embeddings\.((?:word|position)_embeddings\.weight)", r"qformer.embeddings.\1"),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.(weight|bias)", r"qformer.embeddings.layernorm.\1"),
    (r"Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.(.+)", r"qformer.\1.attention.\2"),
    (r"Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention\.output\..+)", r"qformer.\1"),
    (r"Qformer\.bert\.(encoder\.layer\.\d+\.(?:intermediate|output)(?:_query)?\..+)", r"qformer.\1"),
)
SKIPPED = re.compile(
    r"Qformer\.cls\..+|(vision_proj|text_proj|itm_head)\..+|temp|Qformer\.bert\.embeddings\.position_ids"
)
"""Heads that only BLIP-2's first stage uses, and a buffer."""
REPLACED = ("query_tokens", "qformer.", "language_projection.", "vision_model.post_layernorm.")
"""Prefixes of Hugging Face names; such a file has to hold every tensor under them."""
_BUFFERS = re.compile(qformer.ignored(QFORMER[1]))


def hugging_face_name(name: str) -> str | None:
    """The name in the public layout, or None for an unknown one."""
    for theirs, ours in _NAMES:
        if match := re.fullmatch(theirs, name):
            return match.expand(ours)
    return None


def rename(
    path: str, tensors: Mapping[str, np.ndarray], base: str, shapes: Mapping[str, Shape]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rename original tensors to Hugging Face names; returns them, and the names that were skipped.

    Args:
      path: the file, for errors.
      tensors: original name -> tensor.
      base: the InstructBLIP directory whose tensors they replace, for errors.
      shapes: Hugging Face name -> shape of every tensor in ``base``.

    Raises one ValueError that lists every missing, mis-shaped, duplicate and unknown tensor of the file.
    """
    renamed: dict[str, np.ndarray] = {}
    skipped, wrong = [], []
    for name, tensor in tensors.items():
        if SKIPPED.fullmatch(name):
            skipped.append(name)
            continue
        new = hugging_face_name(name)
        if new is None or new not in shapes:
            wrong.append(f"unexpected  {name} {list(tensor.shape)}")
        elif new in renamed:
            wrong.append(f"duplicate   {name}, as {new}")
        elif tensor.shape != shapes[new]:
            wrong.append(f"mis-shaped  {name} {list(tensor.shape)}, {base} has {list(shapes[new])}")
        if new is not None:
            renamed[new] = tensor
    for name, shape in shapes.items():
        if name.startswith(REPLACED) and name not in renamed and not _BUFFERS.fullmatch(name):
            wrong.append(f"missing     {name} {list(shape)}")
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} tensors do not fit {base}:\n  " + "\n  ".join(sorted(wrong)))
    return renamed, skipped
