"""What training, generation and evaluation ask of a system."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Batch = Mapping[str, jax.Array]
"""Arrays under the contract's keys: pixel_values, qformer_input_ids, input_ids, labels, and the masks."""


class System(Protocol):
    """A wiring of parts (an `nnx.Module`), merged and called inside jitted functions only."""

    def loss(self, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Sum of the token losses and the number of tokens; ``key`` switches the trainable parts' dropout on."""

    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, T, V], in Hugging Face's convention."""

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """pixels [B, H, W, 3] -> image tokens [B, P, D], whatever will be asked about them."""

    def prefill(self, image: jax.Array, batch: Batch, length: int) -> tuple[jax.Array, Any]:
        """Image tokens and instructions -> first input ids [B] and a cache for ``length`` generated tokens."""

    def step(self, ids: jax.Array, cache: Any, index: jax.Array) -> tuple[jax.Array, Any]:
        """One decoding step: ids [B] -> logits float32 [B, V] and the cache."""
