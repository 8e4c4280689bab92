"""Our arrays -> Hugging Face tensors: the inverse of `load`, by the same table."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from instructblip_jax.convert.rule import Rule, for_paths
from instructblip_jax.mesh import fetch


def tensors(rules: Mapping[str, Rule], arrays: Mapping[str, jax.Array]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (Hugging Face name, tensor) for every parameter in ``arrays`` (path -> array), slices of fused ones joined.

    Raises ValueError where ``arrays`` holds some slices of a fused tensor but not all of them.
    """
    rules = for_paths(rules, arrays)
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, sharded in arrays.items():
        rule, array = rules[path], fetch(sharded)
        for index, name in enumerate(rule.names(array.shape)):
            tensor = rule.transform.save(array[index] if rule.stacked else array)
            if rule.transform.parts == 1:
                yield name, tensor
                continue
            slots = parts.setdefault(name, {})
            slots[rule.transform.part] = tensor
            if len(slots) == rule.transform.parts:
                yield name, np.concatenate([slots[n] for n in sorted(slots)])
                del parts[name]
    if parts:
        raise ValueError(f"only some slices of {', '.join(sorted(parts))} are given; a fused tensor is written whole")
