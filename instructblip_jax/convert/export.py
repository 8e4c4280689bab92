"""A trained model -> a Hugging Face model directory: a copy of its source with the trained tensors replaced."""

import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from instructblip_jax import distributed
from instructblip_jax.convert.new_directory import check_free
from instructblip_jax.convert.rule import Rule
from instructblip_jax.convert.shards import Shards, open_shards
from instructblip_jax.convert.shared_directory import shared_directory
from instructblip_jax.convert.write import MAX_SHARD_BYTES, Tensor, Written, stored, write_shards

COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "qformer_tokenizer/*")
"""Files other than weights: configurations, tokenizers, image processor."""
CARD = "README.md"
"""The model card of a directory."""
_INDEX = ".index.json"


def export(
    out: str | Path,
    source: Path,
    trained: Mapping[str, Tensor],
    rules: Mapping[str, Rule],
    ignored: re.Pattern[str],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    added: bool = False,
    describe: Callable[[Path], None] = lambda directory: None,
    card: str = "",
) -> list[Written]:
    """Write ``out``, completely or not at all: the model in ``source``, with the tensors in ``trained`` replaced.

    Every other tensor is copied unchanged; unused buffers and aliases are left out. One tensor is in
    memory at a time. In a job of several processes all of them call it, and those that see ``out`` write a share of the
    weight files each.

    Args:
      out: a directory that does not exist yet, or is empty.
      source: a model directory.
      trained: Hugging Face name -> float32 tensor in Hugging Face layout (`convert.save.lazy`).
      rules: the table of the exported model; a tensor that it resizes on loading is written resized.
      ignored: names of extra tensors in old files.
      max_shard_bytes: largest size of a weight file, unless one tensor is larger.
      added: also write tensors that ``source`` lacks.
      describe: called with the new directory, to edit its configuration files.
      card: the text of its README.md, "" for none.

    Returns the weight files. Raises ValueError for an ``out`` that is in use, or for tensors that ``source`` does not
    have in this shape, and OSError where ``out`` cannot be written.
    """
    out = Path(out)
    with distributed.together():
        if distributed.is_writer():
            check_free(out, source)
        tensors = _replaced(source, trained, rules, ignored, added)
    size = sum(tensor.nbytes for tensor in tensors.values())
    with shared_directory(out, size) as (directory, share):
        written = write_shards(directory, tensors.items(), max_shard_bytes, share=share)
        if distributed.is_writer():
            copy_files(source, directory)  # including config.json, without which a directory is not a model
            describe(directory)
            if card:
                (directory / CARD).write_text(card, encoding="utf-8")
    return written


def _replaced(
    source: Path, trained: Mapping[str, Tensor], rules: Mapping[str, Rule], ignored: re.Pattern[str], added: bool
) -> dict[str, Tensor]:
    """All tensors of ``source`` in the order of its files, the ``trained`` ones replaced; see `export`."""
    shards = open_shards(source)
    tensors: dict[str, Tensor] = {name: stored(shards, name) for name in kept(rules, ignored, shards.shapes)}
    for rule in rules.values():
        if rule.transform.stored is not None and rule.theirs in tensors:
            tensors[rule.theirs] = _resized(rule, shards)
    # Tensors that no model directory has stay in the checkpoint.
    unwritten = {rule.theirs for rule in rules.values() if rule.new is not None} - tensors.keys()
    trained = {name: tensor for name, tensor in trained.items() if name not in unwritten}
    wrong = [
        f"{name} {list(tensor.shape)}, there {list(tensors[name].shape) if name in tensors else 'not at all'}"
        for name, tensor in trained.items()
        if (name not in tensors and not added) or (name in tensors and tensors[name].shape != tensor.shape)
    ]
    if wrong:
        raise ValueError(f"{source}: is not the model that these were trained on: {'; '.join(wrong)}")
    return tensors | trained


def _resized(rule: Rule, shards: Shards) -> np.ndarray:
    """The tensor of a rule that resizes it, in its new size."""
    try:
        return rule.transform.save(rule.transform.read(shards.read(rule.theirs)))
    except ValueError as error:
        raise ValueError(f"{shards.directory}: {rule.theirs} {error}") from error


def copy_files(source: Path, directory: Path) -> None:
    """Copy a model directory's files except its weights and their index."""
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and not path.name.endswith(_INDEX):
                target = directory / path.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)


def kept(rules: Mapping[str, Rule], ignored: re.Pattern[str], names: Collection[str]) -> list[str]:
    """``names`` without the ``ignored`` ones, except where such a name is the only copy of a tensor."""
    spellings = [(rule.theirs, *rule.others) for rule in rules.values() if not rule.stacked]
    read = {next((name for name in group if name in names), None) for group in spellings}
    return [name for name in names if name in read or not ignored.fullmatch(name)]
