"""Flamingo (arXiv 2204.14198; OpenFlamingo, 2308.01390) and Idefics-1 (2306.16527): a frozen language model that looks
at pictures from inside.

Image tower -> resampler -> keys and values of gated cross-attention, blocks that stand between the language model's
layers. A picture takes up a token or three of the text, which say where it stands; its content never enters the text.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.bridges.gated import GatedBlock, GatedConfig, Sight, sight
from instructblip_jax.models.bridges.resampler import Resampler, ResamplerConfig
from instructblip_jax.models.language.added import AddedTokens
from instructblip_jax.models.language.causal import Between
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.layers import stack
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.pixels import numbers
from instructblip_jax.sharding import REST, SHARDED, Layout, constrain
from instructblip_jax.systems.interleaved import InterleavedConfig
from instructblip_jax.systems.maps import QUERIES, WORDS, on_grid
from instructblip_jax.systems.prefix import PrefixSystem, first_of, in_layout_of, picture_shapes
from instructblip_jax.systems.protocol import Batch, Context, Media, Shapes

SEES = ("latest", "all")
"""Pictures that a token looks at, the papers' first: the latest one before it, or all up to it."""
BRIDGE = ("bridge", "added")


@dataclasses.dataclass(frozen=True)
class FlamingoConfig(InterleavedConfig):
    """Sizes of all parts; see `protocol.SystemConfig`.

    Attributes:
      resampler: None if the blocks look at the tower's own vectors (Idefics without ``use_resampler``).
      every, at: a block stands before layer ``at`` of each group of ``every`` layers: 0 in Flamingo and Idefics,
        ``every`` - 1 in OpenFlamingo.
      known_tokens: tokens that the frozen language model's tables serve; ids from there on are ``added_tokens`` rows
        that train.
      image_token_id: the token that stands where a picture does.
      chunk_token_id: ends the text of a picture (Flamingo's <EOC>); -1 if there is none (Idefics).
      fake_token_id: stands around pictures (Idefics); -1 if there is none.
      class_token: True if the tower's class token is read, too (Idefics).
      sees: one of `SEES`.
      next_picture: the probability with which a row, in training, looks at the next picture, not the one before: web
        pages place pictures on either side of their text (0.5 in the paper's appendix; 0 in the open code).
      stored_image_size: as in `systems.instructblip.InstructBlipConfig`.
    """

    vision: VitConfig
    text: LlamaConfig | OptConfig
    resampler: ResamplerConfig | None
    gated: GatedConfig
    every: int
    at: int
    known_tokens: int
    added_tokens: int
    image_token_id: int
    chunk_token_id: int = -1
    fake_token_id: int = -1
    class_token: bool = False
    sees: str = SEES[0]
    next_picture: float = 0.0
    stored_image_size: int = 0

    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"resampler_and_xattn": BRIDGE}
    queries_read_text: ClassVar[bool] = False
    tokens_per_picture: ClassVar[int] = 0  # static text lengths count them

    @property
    def vocab_size(self) -> int:
        """See `protocol.SystemConfig`."""
        return self.known_tokens + self.added_tokens

    @property
    def document_end(self) -> int:
        """The token that ends a document, after which no earlier picture is seen."""
        ends = self.text.eos_token_id
        return ends[0] if isinstance(ends, tuple) else ends

    @property
    def end_ids(self) -> int | tuple[int, ...]:
        """See `protocol.SystemConfig`."""
        return self.text.eos_token_id if self.chunk_token_id < 0 else self.chunk_token_id

    @property
    def more_end_ids(self) -> tuple[int, ...]:
        """See `prefix.PrefixConfig`."""
        return super().more_end_ids if self.chunk_token_id < 0 else (self.chunk_token_id,)

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """See `protocol.Forbids`: a picture cannot be written."""
        return tuple(token for token in (self.fake_token_id, self.image_token_id) if token >= 0)

    @property
    def blocks(self) -> int:
        """Gated blocks in all."""
        return sum(layer % self.every == self.at for layer in range(self.text.num_hidden_layers))

    @property
    def vectors(self) -> int:
        """Vectors Q of a picture that the blocks look at."""
        return self.vision.grid**2 + self.class_token if self.resampler is None else self.resampler.latents

    def configured(
        self, *, image_size: int = 0, sees: str = "", next_picture: float | None = None, **others: Any
    ) -> Self:
        """The same for pictures of ``image_size`` pixels a side, another rule of which pictures are seen, another
        probability of the next one; 0, "" and None keep what the checkpoint says.

        Raises ValueError for another option or value.
        """
        if others:
            raise ValueError(f"{', '.join(others)}: this system has the options image_size, sees, next_picture")
        if sees not in ("", *SEES):
            raise ValueError(f"sees is {sees!r}; there are {', '.join(SEES)}")
        chance = self.next_picture if next_picture is None else next_picture
        if not 0 <= chance <= 1:
            raise ValueError(f"next_picture is {chance!r}; it is a probability, from 0 to 1")
        sized = super().configured(image_size=image_size)
        return dataclasses.replace(sized, sees=sees or self.sees, next_picture=chance)

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = BRIDGE,
    ) -> "FlamingoSystem":
        """See `protocol.SystemConfig`."""
        return FlamingoSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, int8=int8)

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`; the frames of a video are one medium, pixel_values [B, 1, F, H, W, 3]."""
        shapes = super().batch(rows, prompt, response, kinds, training=training)
        if "frame" not in kinds:
            return shapes
        return {**shapes, **picture_shapes(self.vision, rows, 1, len(kinds))}


class Bridge(nnx.Module):
    """All that stands between pictures and language model: the resampler, and the gated blocks."""

    def __init__(self, config: FlamingoConfig, *, dtype: Any, rngs: nnx.Rngs, remat: str):
        sizes = config.resampler
        self.resampler = None if sizes is None else Resampler(sizes, dtype=dtype, rngs=rngs, remat=remat)
        self.layers = stack.build(lambda rngs: GatedBlock(config.gated, dtype=dtype, rngs=rngs), config.blocks, rngs)


class FlamingoSystem(PrefixSystem):
    """See the module. ``dtype``: compute type. ``remat``: what the backward pass keeps of the language model, block by
    block, and of the resampler. ``int8``: the language model's matrices take one byte a weight, or multiply in int8 as
    well."""

    # Rows are long and a device has few of them: the head is read once a chunk.
    chunk: ClassVar[int] = 256

    def __init__(
        self,
        config: FlamingoConfig,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
    ):
        self.config, self.layout = config, layout
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs)
        self.bridge = Bridge(config, dtype=dtype, rngs=rngs, remat=remat)
        self.llm = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)
        self.added = AddedTokens(config.added_tokens, config.text.width, dtype=dtype, rngs=rngs)

    # Pictures

    def encode(self, batch: Batch) -> Media:
        """pixel_values [B, N, H, W, 3], N pictures a row, or [B, N, F, H, W, 3], N videos -> {"image": [B, N, Q, D]}.

        Pictures may be bytes beside their scale (`instructblip_jax.pixels`).
        """
        rows, count = batch["pixel_values"].shape[:2]
        if count == 0:
            shape = (rows, 0, self.config.vectors, self.config.gated.media_width)
            return {"image": jnp.zeros(shape, self.vit.dtype)}
        return {"image": self._resampled(jax.lax.stop_gradient(self._patches(batch)))}

    @in_layout_of("vit")
    def _patches(self, batch: Batch) -> jax.Array:
        """The tower's output for all frames, [B, N, F, P, Dv]; a picture is a single one."""
        pixels = numbers(batch, "pixel_values")
        patches = self.vit(pixels.reshape(-1, *pixels.shape[-3:]))
        patches = patches if self.config.class_token else patches[:, 1:]
        frames = pixels.shape[2] if pixels.ndim == 6 else 1
        return patches.reshape(*pixels.shape[:2], frames, *patches.shape[1:])

    @in_layout_of("trained")
    def _resampled(self, patches: jax.Array) -> jax.Array:
        if self.bridge.resampler is None:
            batch, count, frames, places, width = patches.shape
            return patches.reshape(batch, count, frames * places, width)
        return self.bridge.resampler(patches)

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`: the resampler's latents; and with a text its words, as the last gated block has them:
        a word reads latents, and its map is theirs, each by the attention that the word pays it. A row's first picture
        or video."""
        patches = self._patches(batch)[:, :1]
        latents = None if self.bridge.resampler is None else self.bridge.resampler.look(patches)[:, 0]  # [B, Q, F, P]
        found = {} if latents is None else {QUERIES: latents}
        if "input_ids" in batch:
            words = self._watched(self._resampled(patches), first_of(batch))
            found[WORDS] = words[:, :, None] if latents is None else jnp.einsum("btq,bqfp->btfp", words, latents)
        is_video, grid = batch["pixel_values"].ndim == 6, self.config.vision.grid
        return {name: on_grid(x.swapaxes(1, 2) if is_video else x[:, :, 0], grid) for name, x in found.items()}

    @in_layout_of("llm")
    def _watched(self, image: jax.Array, batch: Batch) -> jax.Array:
        """One picture's vectors [B, 1, Q, D] and texts, real tokens first -> the attention of each token to them in the
        last block, float32 [B, T, Q]."""
        vectors = image[:, 0]
        seen = self._sight(
            pictures_before(batch["input_ids"], self.config.image_token_id, self.config.document_end), vectors.shape[1]
        )

        def watch(block: GatedBlock, carry: tuple[jax.Array, jax.Array], _: None) -> tuple[jax.Array, jax.Array]:
            keys, values = block.keys_values(vectors)
            return block(carry[0], keys, values, seen), block.look(carry[0], keys, seen)

        embeds, mask = self.prompt({"image": image}, batch)
        none = jnp.zeros((*embeds.shape[:2], vectors.shape[1]), jnp.float32)
        return self.llm.watch(embeds, mask, self._between(watch), none)

    # Text

    def prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The language model's input [B, T, D], which holds no picture, and its mask [B, T]."""
        return self._embed(batch["input_ids"]), batch["attention_mask"]

    def hidden(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """See `PrefixSystem.hidden`. ``key`` draws which rows look at the next picture."""
        ids = batch["input_ids"]
        picture = pictures_before(ids, self.config.image_token_id, self.config.document_end)
        if key is not None and self.config.next_picture > 0:
            after = pictures_after(ids, self.config.image_token_id, self.config.document_end)
            ahead = jax.random.bernoulli(key, self.config.next_picture, (ids.shape[0], 1))
            picture = jnp.where(ahead, after, picture)
        image = media["image"]
        vectors = image.reshape(image.shape[0], -1, image.shape[-1])
        seen = self._sight(picture, vectors.shape[1])

        def look(block: GatedBlock, x: jax.Array, _: None) -> jax.Array:
            return block(x, *block.keys_values(vectors), seen)

        embeds, mask = self.prompt(media, batch)
        return self.llm.run(embeds, mask, self._between(look))

    def begun(self, media: Media, batch: Batch, embeds: jax.Array, mask: jax.Array) -> dict[str, Any]:
        """See `PrefixSystem.begun`: also "pictures", the keys and values of every block for all pictures of a row
        ([L, B, H, S, K] or a list of L times [B, H, S, K]), and "picture" int [B], the number of the one that the last
        token sees, as new tokens will."""
        ids, image = batch["input_ids"], media["image"]
        vectors = image.reshape(image.shape[0], -1, image.shape[-1])

        def keys_values(block: GatedBlock, vectors: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            keys, values = block.keys_values(vectors)
            return vectors, {"k": keys, "v": values}

        _, pictures = stack.run(self.bridge.layers, vectors, keys_values)
        picture = pictures_before(ids, self.config.image_token_id, self.config.document_end)
        end = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True) - 1, 0)
        between = self._cached(pictures, picture, vectors.shape[1])
        last = jnp.take_along_axis(picture, end, axis=1)[:, 0]
        return {"pictures": pictures, "picture": last, **self.llm.prefill(embeds, mask, between)}

    @in_layout_of("llm")
    def decode(
        self,
        ids: jax.Array,
        context: Context,
        cache: Any = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """See `protocol.Answers`."""
        length = jax.tree.leaves(context["pictures"])[0].shape[-2]
        between = self._cached(context["pictures"], context["picture"][:, None, None], length)
        x, cache = self.llm.advance(ids, context, cache, index, origin, self._embed(ids), between)
        return self._to_logits(x), cache

    def _embed(self, ids: jax.Array) -> jax.Array:
        first = self.config.known_tokens
        return self.added.embed(ids, self.llm.embed(jnp.minimum(ids, first - 1)), first)

    def _to_logits(self, hidden: jax.Array) -> jax.Array:
        known = self.llm.logits(hidden)
        return constrain(
            self.added.logits(self.llm.norm(hidden), known, self.config.known_tokens),
            "batch",
            *(None,) * (hidden.ndim - 2),
            "vocab",
        )

    # Blocks between the layers

    def _between(self, look: Any, inputs: Any = None) -> Between:
        """The blocks, each of which does ``look``: (block, x, its input) -> x."""

        def apply(*args: Any) -> Any:
            with jax.named_scope(REST):  # `plan` tells by it what is the language model's
                return look(*args)

        return Between(self.bridge.layers, self.config.every, self.config.at, apply, inputs)

    def _sight(self, picture: jax.Array, length: int) -> Sight:
        count = length // self.config.vectors
        return sight(picture, count, self.config.vectors, earlier=self.config.sees == "all")

    def _cached(self, pictures: Any, picture: jax.Array, length: int) -> Between:
        """Blocks whose keys and values of ``length`` vectors are there already; ``picture`` [B, (N,) T]."""
        seen = self._sight(picture, length)
        return self._between(lambda block, x, own: block(x, own["k"], own["v"], seen), pictures)


def pictures_before(ids: jax.Array, image: int, end: int) -> jax.Array:
    """Tokens int [B, T] -> the number, from 1, of the latest picture of each token's document: an image token has its
    own. 0 before the first one, and behind the token that ends a document until the next picture."""
    here = ids == image
    document = _documents(ids, end)
    of_latest = jax.lax.cummax(jnp.where(here, document, 0), axis=1)
    return jnp.where(document > of_latest, 0, jnp.cumsum(here, axis=1))


def pictures_after(ids: jax.Array, image: int, end: int) -> jax.Array:
    """The same for the next picture of each token's document; an image token has its own number, and 0 is behind the
    last one."""
    here = ids == image
    document = _documents(ids, end)
    none = ids.shape[1] + 1
    of_next = jax.lax.cummin(jnp.where(here, document, none), axis=1, reverse=True)
    return jnp.where(of_next == document, jnp.cumsum(here, axis=1) + ~here, 0)


def _documents(ids: jax.Array, end: int) -> jax.Array:
    """The number of each token's document, int [B, T]: documents that ended before it."""
    ends = (ids == end).astype(jnp.int32)
    return jnp.cumsum(ends, axis=1) - ends
