"""Momentum copies and feature queues: state that changes in training but has no gradient.

The method is MoCo's (arXiv 1911.05722), as used in ALBEF (arXiv 2107.07651, section 3.2) and BLIP (arXiv 2201.12086).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.objectives import contrast
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import in_use
from instructblip_jax.systems.protocol import Memory
from instructblip_jax.systems.trainable import trains

COPY = "momentum/"
"""Prefix of a copy's name, before its parameter's path."""
EMPTY = -100
"""Image identity of a queue entry that was never written."""
PLACE, PICTURES = "place", "picture_queue"
QUEUES = ("image_queue", "text_queue")


def copies(train: Mapping[str, jax.Array], prefixes: tuple[str, ...]) -> Memory:
    """Copies of the trained parameters under ``prefixes``, equal to them at first. Frozen parameters need no copy."""
    return {f"{COPY}{path}": jnp.copy(x) for path, x in train.items() if trains(path, prefixes)}


def follow(memory: Memory, train: Mapping[str, jax.Array], decay: float) -> Memory:
    """The memory with its copies moved towards their parameters: decay * copy + (1 - decay) * parameter."""
    moved = {
        name: decay * x + (1.0 - decay) * train[name.removeprefix(COPY)]
        for name, x in memory.items()
        if name.startswith(COPY)
    }
    return memory | moved


def twin(module: Any, memory: Memory, path: str) -> Any:
    """The module at ``path`` of a system with the copies instead of its parameters, in the compute type.

    Parameters without a copy are the module's own. No gradient enters it.
    """
    graph, state = nnx.split(module)
    flat = []
    for place, variable in nnx.to_flat_state(state):
        x = memory.get("/".join((f"{COPY}{path}", *map(str, place))))
        if x is None:
            x = variable[...]
        elif "in_use" in (metadata := variable.get_metadata()):
            x = in_use(x, *metadata["in_use"])
        flat.append((place, variable.replace(jax.lax.stop_gradient(x))))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def begin_queues(size: int, width: int, *, pictures: bool, seed: int = 0) -> Memory:
    """Queues of ``size`` features of images and texts: random unit vectors float32 [K, E], and the write position.

    ``pictures``: also the identity of each entry's image, int32 [K], `EMPTY` at first.
    """
    keys = jax.random.split(jax.random.key(seed), len(QUEUES))
    memory = {name: _units(jax.random.normal(key, (size, width))) for name, key in zip(QUEUES, keys, strict=True)}
    if pictures:
        memory[PICTURES] = jnp.full((size,), EMPTY, jnp.int32)
    return memory | {PLACE: jnp.zeros((), jnp.int32)}


def _units(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def enqueue(memory: Memory, image: jax.Array, text: jax.Array, pictures: jax.Array | None = None) -> Memory:
    """The memory with its oldest features replaced by those of a batch, [B, E] each, in the order of its rows.

    The order is that of the global batch on any mesh. Raises ValueError if the batch is larger than the queue.
    """
    size, rows = memory[QUEUES[0]].shape[0], image.shape[0]
    if rows > size:
        raise ValueError(f"system.queue_size is {size}, less than the batch's {rows} rows; it must hold a batch")
    places = (memory[PLACE] + jnp.arange(rows)) % size
    new: dict[str, jax.Array] = dict(zip(QUEUES, (image, text), strict=True))
    if PICTURES in memory:
        new[PICTURES] = jnp.full((rows,), EMPTY) if pictures is None else pictures
    written = {
        name: memory[name].at[places].set(jax.lax.stop_gradient(x).astype(memory[name].dtype))
        for name, x in new.items()
    }
    return memory | written | {PLACE: (memory[PLACE] + rows) % size}


def contrast_with_queues(
    own: tuple[jax.Array, jax.Array],
    copied: tuple[jax.Array, jax.Array],
    memory: Memory,
    temperature: jax.Array,
    alpha: jax.Array | float,
    pictures: jax.Array | None,
) -> tuple[Term, jax.Array, jax.Array]:
    """Contrast of a batch with the momentum features of the batch and of the queues (ALBEF, section 3.2).

    Args:
      own: features of images and of texts, float32 [B, E] each; ``copied`` are those of the momentum copies.
      memory: with the queues, K entries each.
      temperature: similarities are divided by it.
      alpha: weight of the copies' own similarities in the targets (momentum distillation, section 3.4).
      pictures: identities int [B] of the rows' images, or None if all are different.

    Returns the term, and the similarities of images to texts and of texts to images, float32 [B, B + K], with this
    batch's features first.
    """
    rows = own[0].shape[0]
    images, texts = (jnp.concatenate([x, memory[name]]) for x, name in zip(copied, QUEUES, strict=True))
    to_texts, to_images = own[0] @ texts.T / temperature, own[1] @ images.T / temperature
    if pictures is None:
        targets = contrast.diagonal_targets(rows, len(images))
    else:
        targets = contrast.picture_targets(pictures, jnp.concatenate([pictures, memory[PICTURES]]))
    each = [
        contrast.soft_cross_entropy(logits, contrast.mixed(targets, one @ candidates.T / temperature, alpha))
        for logits, one, candidates in ((to_texts, copied[0], texts), (to_images, copied[1], images))
    ]
    return Term(0.5 * (each[0] + each[1]), jnp.ones(rows, jnp.float32)), to_texts, to_images
