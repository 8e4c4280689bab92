"""What training, generation and evaluation ask of a system."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Batch = Mapping[str, jax.Array]
"""Arrays under the contract's keys: pixel_values, qformer_input_ids, input_ids, labels, and the masks; in training,
image_features may stand for pixel_values."""

Context = dict[str, jax.Array]


class System(Protocol):
    """A wiring of parts (an `nnx.Module`), merged and called inside jitted functions only."""

    def loss(self, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Of each row the sum of its tokens' losses and their number, float32 [B]; ``key`` switches the dropout of what
        trains on."""

    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, T, V], in Hugging Face's convention."""

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """pixels [B, H, W, 3] -> image tokens [B, P, D], whatever will be asked about them."""

    def read(self, image: jax.Array, batch: Batch) -> Context:
        """Image tokens and instructions -> what all continuations of each example share: "first" [B], the token to
        continue from; "ids" [B, S], those before the answer, as Hugging Face counts them; and the model's own."""

    def cache(self, context: Context, rows: int, length: int) -> Any:
        """Room for ``length`` new tokens of ``rows`` continuations of each example: arrays [L, B, N, ...]."""

    def extend(
        self, ids: jax.Array, context: Context, cache: Any = None, index: jax.Array | int = 0
    ) -> tuple[jax.Array, Any]:
        """Continuations ids [B, N, T] -> logits float32 [B, N, T, V] of the tokens after them, and the cache."""

    def log_likelihood(self, context: Context, ids: jax.Array, counted: jax.Array) -> jax.Array:
        """Continuations ids [B, N, T] -> summed log-probability of their ``counted`` tokens, float32 [B, N]."""
