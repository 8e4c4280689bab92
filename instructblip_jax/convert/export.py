"""A trained model -> a Hugging Face model directory: its source, with the trained tensors replaced by ours."""

import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from instructblip_jax.convert.new_directory import check_free, new_directory
from instructblip_jax.convert.rule import Rule
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import MAX_SHARD_BYTES, Tensor, Written, stored, write_shards

COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "qformer_tokenizer/*")
"""Files beside the weights: configurations, tokenizers, image processor."""
_INDEX = ".index.json"


def export(
    out: str | Path,
    source: Path,
    trained: Mapping[str, np.ndarray],
    rules: Mapping[str, Rule],
    ignored: re.Pattern[str],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    describe: Callable[[Path], None] = lambda directory: None,
) -> list[Written]:
    """Write ``out``, whole or not at all: the model in ``source`` with the tensors ``trained`` in place of its own.

    Every other tensor is copied as it is stored, one at a time; buffers and aliases that nothing reads are left out.

    Args:
      out: a directory that is not there yet, or empty.
      source: a model directory.
      trained: Hugging Face name -> float32 tensor in Hugging Face layout (`convert.save.tensors`).
      rules: of the model as it is exported; a tensor that they change on loading (`positions.resized`) is written
        changed.
      ignored: names of tensors that old files hold on top.
      max_shard_bytes: size of a weight file at most, unless one tensor is larger.
      describe: called with the new directory, to change what its configurations say.

    Returns the weight files. Raises ValueError for an ``out`` that is in use, or for tensors that ``source`` does not
    have in this shape, and OSError where ``out`` cannot be written.
    """
    out = Path(out)
    check_free(out, source)
    shards = open_shards(source)
    tensors: dict[str, Tensor] = {name: stored(shards, name) for name in kept(rules, ignored, shards.shapes)}
    for rule in rules.values():
        if rule.transform.stored is not None and rule.theirs in tensors:
            tensors[rule.theirs] = rule.transform.save(rule.transform.read(shards.read(rule.theirs)))
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
        describe(directory)
    return written


def copy_files(source: Path, directory: Path) -> None:
    """Copy everything of a model directory but its weights and their index."""
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.endswith(_INDEX):
                target = directory / path.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)


def kept(rules: Mapping[str, Rule], ignored: re.Pattern[str], names: Collection[str]) -> list[str]:
    """``names`` without those that are ``ignored``, unless one is the only copy of a tensor."""
    spellings = [(rule.theirs, *rule.others) for rule in rules.values() if not rule.stacked]
    read = {next((name for name in group if name in names), None) for group in spellings}
    return [name for name in names if name in read or not ignored.fullmatch(name)]
