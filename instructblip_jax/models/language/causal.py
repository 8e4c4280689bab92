"""What decoder-only language models share: one stack read as a prompt, continued by cached steps, or run in training.

A subclass has ``layers`` (a stack of `CausalBlock`), and says how embeddings take their positions and become logits.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.attention import causal_bias, mask_bias

Cache = dict[str, jax.Array]


class CausalBlock(Protocol):
    """One layer, in two halves around the attention, so that keys and values may come from a cache as well."""

    def project(self, x: jax.Array, place: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [..., T, D] -> queries [..., T, H, K], keys and values [..., G, T, K]."""

    def finish(self, x: jax.Array, query: jax.Array, parts: Sequence[tuple]) -> jax.Array:
        """x [..., T, D] and what its queries may see (see `attention.attend`) -> the layer's output [..., T, D]."""


def positions_of(mask: jax.Array) -> jax.Array:
    """mask [B, S] -> int32 [B, S]: how many real tokens came before, so that padding on any side is no distance."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)


class CausalLM(nnx.Module):
    """Embeddings in, logits out. Masks are int or bool [B, S], padding anywhere."""

    layers: nnx.Module
    remat: str

    def embed(self, ids: jax.Array) -> jax.Array:
        """ids int [..., T] -> [..., T, D]."""
        raise NotImplementedError

    def enter(self, embeds: jax.Array, positions: jax.Array) -> tuple[jax.Array, Any]:
        """embeds [..., T, D] at positions int [..., T] -> the first layer's input, and what each layer's heads need."""
        raise NotImplementedError

    def logits(self, x: jax.Array) -> jax.Array:
        """The last layer's output [..., T, D] -> logits float32 [..., T, V]."""
        raise NotImplementedError

    def check_length(self, length: int) -> None:
        """Raise ValueError where ``length`` positions are more than the model has."""

    def run(self, embeds: jax.Array, mask: jax.Array) -> jax.Array:
        """A whole sequence [B, S, D] -> the last layer's output [B, S, D]."""
        x, place, bias = self._begin(embeds, mask)

        def body(block: CausalBlock, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            query, keys, values = block.project(x, place)
            return block.finish(x, query, [(keys, values, bias)]), None

        return stack.run(self.layers, x, body, remat=self.remat)[0]

    def prefill(self, embeds: jax.Array, mask: jax.Array) -> Cache:
        """A prompt [B, S, D] -> what its continuations see of it: keys and values [L, B, G, S, K], and the mask without
        the last real token, which is the first one that `decode` is given (its logits are the first answer token's)."""
        x, place, bias = self._begin(embeds, mask)
        last_layer = stack.depth(self.layers) - 1

        def body(block: CausalBlock, x: jax.Array, layer: jax.Array) -> tuple[jax.Array, Cache]:
            query, keys, values = block.project(x, place)
            # What the last layer would make of its input is asked of the continuations alone.
            x = jax.lax.cond(
                layer < last_layer, lambda: block.finish(x, query, [(keys, values, bias)]).astype(x.dtype), lambda: x
            )
            return x, {"k": keys, "v": values}

        _, context = stack.run(self.layers, x, body, inputs=jnp.arange(last_layer + 1))
        last = positions_of(mask) == jnp.sum(mask.astype(jnp.int32), axis=1, keepdims=True) - 1
        return context | {"mask": mask.astype(bool) & ~last}

    def _begin(self, embeds: jax.Array, mask: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
        """The first layer's input, what each layer's heads need, and the bias float32 [B, 1, S, S]."""
        length = embeds.shape[1]
        self.check_length(length)
        x, place = self.enter(embeds, positions_of(mask))
        return x, place, jnp.minimum(causal_bias(length), mask_bias(mask))

    def init_cache(self, context: Cache, rows: int, length: int) -> Cache:
        """Room for ``length`` tokens of ``rows`` continuations of each example: [L, B, N, G, T, K]."""
        self.check_length(context["k"].shape[3] + length)
        return stack.init_cache(context["k"], rows, length)

    def decode(
        self, ids: jax.Array, context: Cache, cache: Cache | None = None, index: jax.Array | int = 0
    ) -> tuple[jax.Array, Cache | None]:
        """N continuations of each example: ids int [B, N, T] -> logits float32 [B, N, T, V].

        Without a cache ids begin right after the context; with one, they go on at ``index``, and it is returned with
        them in it.
        """
        if cache is None:
            self.check_length(context["k"].shape[3] + ids.shape[2])
        first = jnp.sum(context["mask"].astype(jnp.int32), axis=1)[:, None, None]
        x, place = self.enter(self.embed(ids), first + index + jnp.arange(ids.shape[2]))
        seen = mask_bias(context["mask"])[:, None]  # [B, 1, 1, 1, S]
        own_bias = causal_bias(ids.shape[2] if cache is None else cache["k"].shape[4])
        if cache is not None:
            own_bias = jax.lax.dynamic_slice_in_dim(own_bias, index, ids.shape[2], axis=2)

        def body(block: CausalBlock, x: jax.Array, layer: tuple[Cache, Cache | None]) -> tuple[jax.Array, Cache | None]:
            prompt, own = layer
            query, keys, values = block.project(x, place)
            new = {"k": keys, "v": values} if own is None else stack.update_cache(own, {"k": keys, "v": values}, index)
            parts = [(prompt["k"], prompt["v"], seen), (new["k"], new["v"], own_bias)]
            return block.finish(x, query, parts), None if own is None else new

        prompt = {name: context[name] for name in ("k", "v")}
        x, cache = stack.run(self.layers, x, body, inputs=(prompt, cache))
        return self.logits(x), cache
