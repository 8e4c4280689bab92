"""A trained model -> a Hugging Face model directory: its source, with the trained tensors replaced by ours."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import hf_config, positions, table
from instructblip_jax.convert.new_directory import check_free, new_directory
from instructblip_jax.convert.rule import Rule
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import MAX_SHARD_BYTES, Tensor, Written, stored, write_shards
from instructblip_jax.files import read_json
from instructblip_jax.processors.image import NESTED, PREPROCESSOR, PROCESSOR, VIDEO_PREPROCESSOR

COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "qformer_tokenizer/*")
"""Files beside the weights: configurations, tokenizers, image processor."""
_INDEX = ".index.json"


def export(
    out: str | Path,
    source: Path,
    trained: Mapping[str, np.ndarray],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    image_size: int = 0,
) -> list[Written]:
    """Write ``out``, whole or not at all: the model in ``source`` with the tensors ``trained`` in place of its own.

    Every other tensor is copied as it is stored, one at a time; buffers and aliases that nothing reads are left out.

    Args:
      out: a directory that is not there yet, or empty.
      source: a model directory.
      trained: Hugging Face name -> float32 tensor in Hugging Face layout (`convert.save.tensors`).
      max_shard_bytes: size of a weight file at most, unless one tensor is larger.
      image_size: of the pictures it was trained on; 0 is the source's own. For another one the configurations say so,
        and the position embeddings are the interpolated ones.

    Returns the weight files. Raises ValueError for an ``out`` that is in use, or for tensors that ``source`` has not in
    this shape, and OSError where ``out`` cannot be written.
    """
    out = Path(out)
    check_free(out, source)
    stored_config = hf_config.parse(source / "config.json")
    vision = stored_config.vision.at(image_size)
    shards = positions.fitted(open_shards(source), stored_config.vision, vision.grid)
    rules = table.rules(stored_config)
    tensors: dict[str, Tensor] = {name: stored(shards, name) for name in kept(rules, shards.shapes)}
    wrong = [
        f"{name} {list(tensor.shape)}, there {list(tensors[name].shape) if name in tensors else 'not at all'}"
        for name, tensor in trained.items()
        if name not in tensors or tensors[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"{source}: is not the model that these were trained on: {'; '.join(wrong)}")
    tensors |= trained
    with new_directory(out, sum(tensor.nbytes for tensor in tensors.values())) as directory:
        written = write_shards(directory, tensors.items(), max_shard_bytes)
        copy_files(source, directory)  # config.json is among them: a directory without it is no model
        if vision != stored_config.vision:
            _say_size(directory, vision.image_size)
    return written


def _say_size(directory: Path, image_size: int) -> None:
    """Write the pictures' size into the configurations of a model directory."""
    size = {"size": {"height": image_size, "width": image_size}}
    config = directory / "config.json"
    raw = read_json(config)
    _write(config, raw | {"vision_config": (raw.get("vision_config") or {}) | {"image_size": image_size}})
    for path in (directory / PREPROCESSOR, directory / VIDEO_PREPROCESSOR):
        if path.is_file():
            _write(path, read_json(path) | size)
    path = directory / PROCESSOR
    if path.is_file():
        raw = read_json(path)
        _write(path, raw | {name: raw[name] | size for name in NESTED if isinstance(raw.get(name), dict)})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def copy_files(source: Path, directory: Path) -> None:
    """Copy everything of a model directory but its weights and their index."""
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.endswith(_INDEX):
                target = directory / path.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)


def kept(rules: Mapping[str, Rule], names: Collection[str]) -> list[str]:
    """``names`` without what old files hold on top, unless it is the only copy of a tensor."""
    spellings = [(rule.theirs, *rule.others) for rule in rules.values() if not rule.stacked]
    read = {next((name for name in group if name in names), None) for group in spellings}
    return [name for name in names if name in read or not table.IGNORED.fullmatch(name)]
