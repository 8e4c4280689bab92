"""Base class of decoder-only language models: prefill, decode steps with a KV cache, and whole sequences in training.

A subclass has ``layers`` (a stack of `CausalBlock`) and defines how positions enter and how logits are computed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.layers import kv_cache, stack
from instructblip_jax.models.layers.attention import causal_bias, mask_bias
from instructblip_jax.models.layers.kv_cache import Cache
from instructblip_jax.sharding import residual


class CausalBlock(Protocol):
    """One layer, split in two around the attention, so that keys and values can also come from a cache."""

    def project(self, x: jax.Array, place: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [..., T, D] -> queries [..., T, H, K], keys and values [..., G, T, K].

        ``place``: the positions in the form that `CausalLM.enter` gave them.
        """

    def finish(self, x: jax.Array, query: jax.Array, parts: Sequence[tuple]) -> jax.Array:
        """x [..., T, D], its queries and the ``parts`` that they attend to (see `attention.attend`) -> [..., T, D]."""


@dataclasses.dataclass(frozen=True)
class Between:
    """Blocks of another's that stand between the layers of a language model, as Flamingo's gated ones do.

    Attributes:
      blocks: a stack of them, one a group of ``every`` layers; a last, smaller group may have none.
      every: layers of a group.
      at: the layer of its group, from 0, that a block stands before.
      apply: (block, x [..., T, D], its input) -> x.
      inputs: of the blocks, as `stack.run` takes them: cached keys and values, say. None gives each None.
    """

    blocks: nnx.Module
    every: int
    at: int
    apply: Callable[[Any, Any, Any], Any]
    inputs: Any = None


def positions_of(mask: jax.Array) -> jax.Array:
    """mask [B, S] -> positions int32 [B, S]: the number of real tokens before each, so padding takes no position."""
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)


def without_last(mask: jax.Array) -> jax.Array:
    """mask [B, S] -> bool [B, S], without the last real token of each row, which decoding takes first."""
    last = positions_of(mask) == jnp.sum(mask.astype(jnp.int32), axis=1, keepdims=True) - 1
    return mask.astype(bool) & ~last


def _whole(place: Any, bias: jax.Array) -> Callable[[CausalBlock, jax.Array], tuple[jax.Array, None]]:
    """A layer over whole sequences, as `stack.run` takes it."""

    def body(block: CausalBlock, x: jax.Array) -> tuple[jax.Array, None]:
        query, keys, values = block.project(x, place)
        return block.finish(x, query, [(keys, values, bias)]), None

    return body


class CausalLM(nnx.Module):
    """Embeddings in, logits out. Masks are int or bool [B, S], padding anywhere."""

    layers: nnx.Module
    remat: str

    def embed(self, ids: jax.Array) -> jax.Array:
        """ids int [..., T] -> [..., T, D]."""
        raise NotImplementedError

    def enter(self, embeds: jax.Array, positions: jax.Array) -> tuple[jax.Array, Any]:
        """embeds [..., T, D] and positions int [..., T] -> first layer's input, and the ``place`` of all layers."""
        raise NotImplementedError

    def logits(self, x: jax.Array) -> jax.Array:
        """The last layer's output [..., T, D] -> logits float32 [..., T, V]."""
        raise NotImplementedError

    def check_length(self, length: int) -> None:
        """Raise ValueError if ``length`` exceeds the number of positions that the model has."""

    def run(self, embeds: jax.Array, mask: jax.Array, between: Between | None = None) -> jax.Array:
        """Run whole sequences [B, S, D] -> the last layer's output [B, S, D]."""
        x, place, bias = self._begin(embeds, mask)
        return self._through(between, x, _whole(place, bias), remat=self.remat)[0]

    def watch(self, embeds: jax.Array, mask: jax.Array, between: Between, seen: jax.Array) -> jax.Array:
        """`run` with blocks that say what they saw: ``apply`` takes and gives (x, seen), and what the last block gave
        is returned. ``seen``: what the first one is given."""
        x, place, bias = self._begin(embeds, mask)
        body = _whole(place, bias)
        return self._through(between, (x, seen), lambda block, carry: ((body(block, carry[0])[0], carry[1]), None))[0][
            1
        ]

    def prefill(self, embeds: jax.Array, mask: jax.Array, between: Between | None = None) -> dict[str, Any]:
        """Prompts [B, S, D] -> the context of their continuations: "layers", keys and values [L, B, G, S, K] or a list
        of L times [B, G, S, K], and "mask" [B, S].

        The mask leaves out the last real token: `decode` takes that one first, and returns the logits of the first
        answer token for it.
        """
        x, place, bias = self._begin(embeds, mask)
        last_layer = stack.depth(self.layers) - 1

        def body(block: CausalBlock, x: jax.Array, layer: int | jax.Array) -> tuple[jax.Array, Cache]:
            query, keys, values = block.project(x, place)
            # Nothing reads the last layer's output for the prompt; only its keys and values are needed.
            x = jax.lax.cond(
                layer < last_layer, lambda: block.finish(x, query, [(keys, values, bias)]).astype(x.dtype), lambda: x
            )
            return x, {"k": keys, "v": values}

        _, layers = self._through(between, x, body, stack.numbers(self.layers))
        return {"layers": layers, "mask": without_last(mask)}

    def _through(
        self, between: Between | None, x: Any, body: Callable[..., tuple[Any, Any]], *inputs: Any, remat: str = "none"
    ) -> tuple[Any, Any]:
        """`stack.run` through the layers, and through the blocks that stand ``between`` them."""
        if between is None:
            return stack.run(self.layers, x, body, *inputs, remat=remat)

        def group(x: Any, layers: list, block: Any, inputs: list[tuple], own: Any) -> tuple[Any, list]:
            outputs = []
            for n, layer in enumerate(layers):
                if n == between.at and block is not None:
                    x = between.apply(block, x, own)
                x, output = body(layer, x, *inputs[n])
                outputs.append(output)
            return x, outputs

        return stack.run_groups(
            self.layers, between.blocks, between.every, x, group, *inputs, leader_inputs=between.inputs, remat=remat
        )

    def _begin(self, embeds: jax.Array, mask: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
        """Input of the first layer, ``place`` of all layers, and the causal and padding bias float32 [B, 1, S, S]."""
        length = embeds.shape[1]
        self.check_length(length)
        x, place = self.enter(embeds, positions_of(mask))
        return x, place, jnp.minimum(causal_bias(length), mask_bias(mask))

    def init_cache(self, context: dict[str, Any], rows: int, length: int) -> Cache:
        """Empty KV cache for ``length`` tokens of ``rows`` continuations of each example, see `kv_cache`.

        Raises ValueError if the context and the new tokens together exceed the model's positions.
        """
        self.check_length(context["mask"].shape[1] + length)
        return kv_cache.init(context["layers"], rows, length)

    def decode(
        self,
        ids: jax.Array,
        context: dict[str, Any],
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
        embeds: jax.Array | None = None,
        between: Between | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Logits of N continuations of each example: ids int [B, N, T] -> float32 [B, N, T, V]; see `advance`."""
        x, cache = self.advance(ids, context, cache, index, origin, embeds, between)
        return self.logits(x), cache

    def advance(
        self,
        ids: jax.Array,
        context: dict[str, Any],
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
        embeds: jax.Array | None = None,
        between: Between | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """N continuations of each example, ids int [B, N, T] -> the last layer's output [B, N, T, D].

        Without a cache, ids directly follow the context. With a cache, they take the positions from ``index`` on, and
        the updated cache is returned. ``origin``: see `kv_cache.part`. ``embeds``: [B, N, T, D], in place of the ids'.
        """
        if cache is None:
            self.check_length(context["mask"].shape[1] + ids.shape[2])
        first = jnp.sum(context["mask"].astype(jnp.int32), axis=1)[:, None, None]
        embeds = self.embed(ids) if embeds is None else embeds
        x, place = self.enter(embeds, first + index + jnp.arange(ids.shape[2]))
        seen = mask_bias(context["mask"])[:, None]  # [B, 1, 1, 1, S]
        own_bias = kv_cache.causal(ids.shape[2], cache, index)

        def body(block: CausalBlock, carry: Any, layer: int | jax.Array, prompt: Cache) -> tuple[Any, None]:
            x, cache = carry
            x = residual(x)
            query, keys, values = block.project(x, place)
            keys, values, cache = kv_cache.extend(cache, layer, keys, values, index)
            parts = [(prompt["k"], prompt["v"], seen), kv_cache.part(keys, values, own_bias, origin)]
            return (block.finish(x, query, parts), cache), None

        if between is not None:
            apply = between.apply
            between = dataclasses.replace(
                between, apply=lambda block, carry, own: (apply(block, carry[0], own), *carry[1:])
            )
        numbers = stack.numbers(self.layers)
        (x, cache), _ = self._through(between, (x, cache), body, numbers, context["layers"])
        return x, cache
