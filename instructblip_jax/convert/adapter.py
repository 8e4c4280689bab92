"""Export of adapters: merged into their kernels, or as a directory that the peft library loads."""

import re
import sys
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from instructblip_jax import distributed
from instructblip_jax.convert.export import CARD
from instructblip_jax.convert.new_directory import check_free
from instructblip_jax.convert.rule import ADAPTER, PEFT
from instructblip_jax.convert.shards import Shards
from instructblip_jax.convert.shared_directory import shared_directory
from instructblip_jax.convert.write import Lazy, Tensor, Written, read, stored, write_shards
from instructblip_jax.files import write_json
from instructblip_jax.models.layers.lora import Lora

_A, _B = (end for end, _ in ADAPTER.values())
WEIGHTS, CONFIG = "adapter_model", "adapter_config.json"
"""File names of an adapter in the peft library."""
OTHERS = "other_parameters"
"""The file of trained tensors that belong to no module, such as query tokens; the peft library does not store these."""


def is_adapter(name: str) -> bool:
    """True for the name of an adapter's tensor."""
    return name.startswith(PEFT)


def merged(trained: Mapping[str, Tensor], shards: Shards, scale: float) -> dict[str, Tensor]:
    """``trained``, by Hugging Face name, with W + scale * B A for the two matrices of each adapter.

    W is the source's tensor, even if training used a rounded one. The sum is computed in float64, and has the type in
    which the source stores W.
    """
    found = {name: tensor for name, tensor in trained.items() if not is_adapter(name)}
    for name, a in trained.items():
        if is_adapter(name) and name.endswith(_A):
            module = name.removesuffix(_A)
            weight = f"{module.removeprefix(PEFT)}.weight"
            kernel, b = stored(shards, weight), trained[module + _B]
            together = any(isinstance(x, Lazy) and x.collective for x in (a, b))
            found[weight] = Lazy(kernel.shape, kernel.dtype, partial(_sum, kernel, a, b, scale), collective=together)
    return found


def _sum(kernel: Lazy, a: Tensor, b: Tensor, scale: float) -> np.ndarray:
    # In float64, so that there is only one rounding on any machine.
    first, second = (read(x).astype(np.float64) for x in (b, a))
    return (kernel.read().astype(np.float64) + scale * (first @ second)).astype(kernel.dtype)


def export(
    out: str | Path,
    source: Path,
    trained: Mapping[str, Tensor],
    names: Collection[str],
    lora: Lora,
    base: str,
    modules: tuple[tuple[str, str], ...],
    card: str = "",
) -> list[Written]:
    """Write ``out``, completely or not at all: an adapter of the peft library, in float32.

    Other trained tensors that belong to modules are included in full, as modules to save; the rest is in a separate
    file.

    Args:
      out: a directory that does not exist yet, or is empty.
      source: the model's directory.
      trained: Hugging Face name -> tensor; those of adapters begin with `convert.rule.PEFT`.
      names: names of all tensors of the model.
      lora: sizes of the adapters.
      base: the model as a user names it: a directory, or a hub id.
      modules: see `families.Family`.
      card: the text of its README.md, "" for none.

    In a job of several processes all of them call it. Raises as `convert.export.export` does.
    """
    out = Path(out)
    with distributed.together():
        if distributed.is_writer():
            check_free(out, source)
    known = {name: _renamed(name.removeprefix(PEFT), modules) for name in (*names, *trained)}
    adapters = [name for name in trained if is_adapter(name)]
    whole = [name for name in trained if name not in adapters and "." in name]
    kinds = {
        WEIGHTS: {PEFT + known[name]: trained[name] for name in (*adapters, *whole)},
        OTHERS: {known[name]: tensor for name, tensor in trained.items() if "." not in name},
    }
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _pattern([known[name].removesuffix(_A) for name in adapters if name.endswith(_A)]),
        "modules_to_save": _modules([known[name] for name in whole], [known[name] for name in names]) or None,
    }
    written = []
    with shared_directory(out, sum(x.nbytes for kind in kinds.values() for x in kind.values())) as (directory, share):
        for stem, tensors in kinds.items():
            if tensors:
                written += write_shards(directory, tensors.items(), sys.maxsize, share=share, stem=stem)
        if distributed.is_writer():
            write_json(directory / CONFIG, config)
            if card:
                (directory / CARD).write_text(card, encoding="utf-8")
    return written


def _renamed(name: str, modules: tuple[tuple[str, str], ...]) -> str:
    return next((new + name.removeprefix(old) for old, new in modules if name.startswith(old)), name)


def _pattern(paths: list[str]) -> str:
    """A regular expression of the modules that have adapters: stacks, layer numbers, last components of names."""
    stacks = sorted({re.escape(re.split(r"\.\d+\.", path)[0]) for path in paths})
    ends = sorted({path.rpartition(".")[2] for path in paths})
    return rf"({'|'.join(stacks)})\.\d+\.(.*\.)?({'|'.join(ends)})"


def _modules(trained: list[str], names: list[str]) -> list[str]:
    """The largest modules of which every tensor is trained."""
    rest, found = set(names) - set(trained), set()
    for name in trained:
        pieces = name.split(".")
        above = (".".join(pieces[:n]) for n in range(1, len(pieces)))
        found.add(next(module for module in above if not any(x.startswith(f"{module}.") for x in rest)))
    return sorted(found)
