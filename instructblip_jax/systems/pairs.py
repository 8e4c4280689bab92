"""Base of systems trained to match images and texts.

ALBEF (arXiv 2107.07651) and BLIP (arXiv 2201.12086) in pre-training and retrieval. BLIP-2's first stage (arXiv
2301.12597) has no momentum copies, but selects rows in the same way.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from instructblip_jax.sharding import constrain
from instructblip_jax.systems import momentum
from instructblip_jax.systems.picture_text import PictureTextConfig, text_shapes
from instructblip_jax.systems.prefix import picture_shapes
from instructblip_jax.systems.protocol import Memory, Shapes

PICTURE = "picture"
"""Batch key of the identities of the rows' images."""
TEMPERATURE = 0.07
"""Initial value of a trained temperature, by which similarities are divided."""
COOLEST, WARMEST = 0.001, 0.5
"""Its bounds in the original code."""


class PairConfig(PictureTextConfig):
    """Base of their configurations, frozen dataclasses; it precedes the system's base class."""

    queue_size: int
    embed_dim: int

    @property
    def in_batch(self) -> bool:
        """True: negatives are the other rows' images and texts."""
        return True

    @property
    def identifies_pictures(self) -> bool:
        """True if batches and queues identify equal images: in retrieval, not in pre-training."""
        raise NotImplementedError

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`: in training the text is the response, otherwise the prompt."""
        texts = text_shapes(rows, input_ids=response if training else prompt)
        shapes = picture_shapes(self.vision, rows) | texts
        if training and self.identifies_pictures:
            shapes[PICTURE] = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return shapes

    def begin_memory(self, train: Mapping[str, jax.Array]) -> Memory:
        """See `protocol.Remembers`: momentum copies, and the queues of their features."""
        queues = momentum.begin_queues(self.queue_size, self.embed_dim, pictures=self.identifies_pictures)
        return momentum.copies(train, self.copied) | queues


def within_bounds(temperature: jax.Array) -> jax.Array:
    """A trained temperature, clamped to the bounds of ALBEF's and BLIP's code.

    The original sets the parameter itself to the nearer bound, so that its gradient never vanishes.
    """
    return temperature + jax.lax.stop_gradient(jnp.clip(temperature, COOLEST, WARMEST) - temperature)


def rows_of(x: jax.Array, place: jax.Array) -> jax.Array:
    """Rows [B] of the global batch x [B, ...]: every device has all of x until it has selected its own rows."""
    found = constrain(x, *(None for _ in x.shape))[place]
    return constrain(found, "batch", *(None for _ in x.shape[1:]))


def interleaved(*groups: jax.Array) -> jax.Array:
    """Groups [B, ...] -> [n * B, ...], with the groups of a row one after the other, so that no row changes device."""
    return jnp.stack(groups, axis=1).reshape(-1, *groups[0].shape[1:])
