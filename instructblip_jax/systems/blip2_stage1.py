"""BLIP-2's first stage (arXiv 2301.12597, section 3.1): a Q-Former learns to read pictures without a language model.

Frozen ViT -> norm -> Q-Former, trained on three losses: contrast of queries and texts, matching with hard negatives,
and texts written after the queries. Retrieval fine-tuning (section 4.4) is the same with a tower that trains.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.bridges.qformer import QFormer, QFormerConfig
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.kv_cache import Cache
from instructblip_jax.models.layers.primitives import linear, parameter
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.objectives import contrast, matching
from instructblip_jax.objectives.lm import IGNORE, chunked_cross_entropy
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import SHARDED, Layout, constrain
from instructblip_jax.systems.cached_tower import CachedTower, CachedTowerConfig
from instructblip_jax.systems.maps import QUERIES, on_grid
from instructblip_jax.systems.pairs import PICTURE, TEMPERATURE, interleaved, rows_of
from instructblip_jax.systems.prefix import at_size, in_layout_of, picture_shapes, tokens_first
from instructblip_jax.systems.protocol import TOWER, Batch, Context, Media, Memory, Shapes

QFORMER = ("query_tokens", "qformer", "vit/post_norm", "vision_proj", "text_proj", "itm_head", "temp")


@dataclasses.dataclass(frozen=True)
class Blip2Stage1Config(CachedTowerConfig):
    """Sizes of all parts; see `protocol.SystemConfig`.

    Attributes:
      projection_size: width E of the space in which pictures and texts are compared.
      sep_token_id: ends every text (BERT's [SEP]).
      writes: there is a head that writes texts. The public files have none, and stage 1 then trains without its third
        loss.
      label_smoothing: of contrast and of writing.
      identify_pictures: training batches say which rows show the same picture: these are positives of each other, as in
        fine-tuning for retrieval, where a picture has several captions.
      stored_image_size: pixels along a side for which the checkpoint's position embeddings are stored, 0 if it is the
        tower's own size.
    """

    vision: VitConfig
    qformer: QFormerConfig
    projection_size: int = 256
    num_query_tokens: int = 32
    sep_token_id: int = 102
    pad_token_id: int = 0
    writes: bool = False
    label_smoothing: float = 0.1
    identify_pictures: bool = False
    stored_image_size: int = 0

    parts: ClassVar[Mapping[str, str]] = {"vit": TOWER}
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"qformer": QFORMER, "vision": (*QFORMER, "vit")}
    in_batch: ClassVar[bool] = True
    media_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)
    label_keys: ClassVar[tuple[str, ...]] = (PICTURE,)
    match_adds_similarity: ClassVar[bool] = True
    """Re-ranking scores a pair by its matching logit plus its similarity (section 4.4's code)."""
    prompt_is_counted: ClassVar[bool] = True
    more_end_ids: ClassVar[tuple[int, ...]] = ()
    queries_read_text: ClassVar[bool] = True

    @property
    def vocab_size(self) -> int:
        """See `protocol.SystemConfig`."""
        return self.qformer.vocab_size

    @property
    def dec_token_id(self) -> int:
        """[DEC], which begins a text that is written: the last row of the table of words."""
        return self.qformer.vocab_size - 1

    @property
    def end_ids(self) -> int:
        """See `protocol.SystemConfig`."""
        return self.sep_token_id

    @property
    def pad_id(self) -> int:
        """See `protocol.SystemConfig`."""
        return self.pad_token_id

    def configured(
        self,
        *,
        image_size: int = 0,
        label_smoothing: float | None = None,
        identify_pictures: bool = False,
        **others: Any,
    ) -> "Blip2Stage1Config":
        """The same for pictures of ``image_size`` pixels a side (0: the checkpoint's own), with other smoothing, and
        with pictures that are identified.

        Raises ValueError for another option, a size that patches do not divide, or smoothing outside of [0, 1).
        """
        if others:
            raise ValueError(
                f"{', '.join(others)}: this system has the options image_size, label_smoothing and identify_pictures"
            )
        smoothing = self.label_smoothing if label_smoothing is None else label_smoothing
        if not 0 <= smoothing < 1:
            raise ValueError(f"label_smoothing is {smoothing!r}; it is a number from 0 to below 1")
        if not isinstance(identify_pictures, bool):
            raise ValueError(f"identify_pictures is {identify_pictures!r}; it is True or False")
        return dataclasses.replace(
            self,
            **at_size(self, image_size),
            label_smoothing=smoothing,
            identify_pictures=identify_pictures,
        )

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = QFORMER,
    ) -> "Blip2Stage1System":
        """See `protocol.SystemConfig`; there is no language model that ``int8`` could round."""
        kind = Blip2Stage1Writer if self.writes else Blip2Stage1System
        return kind(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, trained=trained)

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """See `protocol.SystemConfig`: the text is the response in training, and the prompt otherwise."""
        text = (rows, response if training else prompt)
        identities = {PICTURE: jax.ShapeDtypeStruct((rows,), jnp.int32)} if training and self.identify_pictures else {}
        return identities | {
            **picture_shapes(self.vision, rows),
            "input_ids": jax.ShapeDtypeStruct(text, jnp.int32),
            "attention_mask": jax.ShapeDtypeStruct(text, jnp.int32),
        }


class Blip2Stage1System(CachedTower):
    """See the module. ``dtype``: compute type. ``remat``: what the backward pass keeps of the Q-Former, and of a tower
    that trains. ``trained``: prefixes of the trainable set."""

    def __init__(
        self,
        config: Blip2Stage1Config,
        *,
        dtype,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        trained: tuple[str, ...] = QFORMER,
    ):
        self.config, self.layout, self.train_tower = config, layout, config.trains_features(trained)
        self.vit = Vit(config.vision, dtype=dtype, rngs=rngs, remat=remat if self.train_tower else "none")
        width, common = config.qformer.hidden_size, config.projection_size
        self.query_tokens = parameter((config.num_query_tokens, width), (None, "embed"), rngs=rngs)
        self.qformer = QFormer(config.qformer, dtype=dtype, rngs=rngs, remat=remat, writes=config.writes)
        self.vision_proj = linear(width, common, ("embed", None), dtype=dtype, rngs=rngs)
        self.text_proj = linear(width, common, ("embed", None), dtype=dtype, rngs=rngs)
        self.itm_head = linear(width, 2, ("embed", None), dtype=dtype, rngs=rngs)
        self.temp = nnx.Param(jnp.full((), TEMPERATURE), axes=())

    # Losses

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """Terms "itc", "itm" and, with the head that writes, "itg". Negatives are of the whole global batch, drawn
        by ``key``, by `jax.random.key(0)` without one. Rows with the same "picture" are no negatives of each other."""
        rows = batch["input_ids"].shape[0]
        drawn = jax.random.split(jax.random.key(0) if key is None else key, 3)
        uniforms = [jax.random.uniform(one, (rows,)) for one in drawn[:2]]
        return self.terms(batch, *uniforms, key=None if key is None else drawn[2]), memory

    def terms(
        self, batch: Batch, for_images: jax.Array, for_texts: jax.Array, *, key: jax.Array | None = None
    ) -> dict[str, Term]:
        """The terms of `loss` with its draws given: uniform numbers [B], by which each row's text gets the picture of
        another row, and each row's picture another text."""
        matching.check_rows(batch["input_ids"].shape[0])
        keys: list[jax.Array | None] = [None] * 4 if key is None else list(jax.random.split(key, 4))
        mask, ids = tokens_first(batch["attention_mask"], batch["input_ids"])
        tokens = self.tokens(batch)
        image = self.vit.post_norm(tokens)
        states, read = self.qformer.read(self.query_tokens[...], image, key=keys[0])
        images = contrast.unit(self.vision_proj(states))  # [B, Q, E]
        texts = contrast.unit(self.text_proj(self.qformer.texts(ids, mask, key=keys[1])[:, 0]))  # [B, E]
        of_images, of_texts, same = self._similarities(images, texts, batch.get(PICTURE))
        terms = {"itc": self._contrast(of_images, of_texts, same)}
        other_image = matching.pick(matching.closed_chances(of_texts, same), for_images)
        other_text = matching.pick(matching.closed_chances(of_images, same), for_texts)
        # Before the norm, so that with a frozen tower no gradient travels back to the rows of other devices.
        negative = self.vit.post_norm(rows_of(tokens, other_image))
        pairs = (
            interleaved(image, negative, image),
            interleaved(ids, ids, rows_of(ids, other_text)),
            interleaved(mask, mask, rows_of(mask, other_text)),
        )
        logits = self._matched(*pairs, key=keys[2]).reshape(-1, 3, 2)
        terms["itm"] = matching.matching_term(logits[:, 0], logits[:, 1], logits[:, 2])
        if self.config.writes:
            hidden = self.qformer.write(self._begun(ids), mask, read, key=keys[3])[:, :-1]
            labels = jnp.where(mask == 0, IGNORE, ids)[:, 1:]
            terms["itg"] = chunked_cross_entropy(self._to_logits, hidden, labels, smoothing=self.config.label_smoothing)
        return terms

    def _similarities(
        self, images: jax.Array, texts: jax.Array, pictures: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits of images over texts and of texts over images, float32 [B, B], and which of them are no negatives.

        As in the original, which gathers embeddings without gradient, only the asking side has one.
        """
        every_image, every_text = (
            constrain(jax.lax.stop_gradient(x), *(None for _ in x.shape)) for x in (images, texts)
        )
        of_images = contrast.best_query(images, every_text) / self.temp[...]
        of_texts = contrast.best_query(every_image, texts).T / self.temp[...]
        rows = texts.shape[0]
        same = jnp.eye(rows, dtype=bool) if pictures is None else contrast.same_picture(pictures, pictures)
        return constrain(of_images, "batch", None), constrain(of_texts, "batch", None), same

    def _contrast(self, of_images: jax.Array, of_texts: jax.Array, same: jax.Array) -> Term:
        targets = contrast.smoothed(contrast.even_targets(same), self.config.label_smoothing)
        both = [contrast.soft_cross_entropy(logits, targets) for logits in (of_images, of_texts)]
        return Term((both[0] + both[1]) / 2, jnp.ones(both[0].shape, jnp.float32))

    # Comparing

    @in_layout_of("trained")
    def embed_media(self, media: Media) -> jax.Array:
        """See `protocol.Compares`: [B, Q, E]."""
        return contrast.unit(self.vision_proj(self.qformer(self.query_tokens[...], media["image"])))

    @in_layout_of("trained")
    def embed_texts(self, batch: Batch) -> jax.Array:
        """See `protocol.Compares`; a text is embedded at its first token."""
        mask, ids = tokens_first(batch["attention_mask"], batch["input_ids"])
        return contrast.unit(self.text_proj(self.qformer.texts(ids, mask)[:, 0]))

    @in_layout_of("trained")
    def match(self, media: Media, batch: Batch) -> jax.Array:
        """See `protocol.Compares`: the mean of the queries' logits."""
        mask, ids = tokens_first(batch["attention_mask"], batch["input_ids"])
        return self._matched(media["image"], ids, mask)

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`: with a text as `match` reads it."""
        image = self.encode(batch)["image"]
        text: tuple[jax.Array, ...] = ()
        if "input_ids" in batch:
            text = tokens_first(batch["attention_mask"], batch["input_ids"])[::-1]
        return {QUERIES: on_grid(self.qformer.look(self.query_tokens[...], image, *text), self.config.vision.grid)}

    def _matched(self, image: jax.Array, ids: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Pairs of image tokens [B, P, Dv] and texts [B, T] -> float32 logits [B, 2]."""
        states = self.qformer(self.query_tokens[...], image, ids, mask, key=key)
        return jnp.mean(self.itm_head(states).astype(jnp.float32), axis=1)

    def _begun(self, ids: jax.Array) -> jax.Array:
        """Texts [B, T] with [DEC] in the place of their first token."""
        return ids.at[:, 0].set(self.config.dec_token_id)

    def _to_logits(self, hidden: jax.Array) -> jax.Array:
        logits = self.qformer.logits(hidden)
        return constrain(logits, "batch", *(None for _ in logits.shape[2:]), "vocab")


class Blip2Stage1Writer(Blip2Stage1System):
    """The same with the head that writes: it also captions."""

    @in_layout_of("trained")
    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, T, V] of the token after each of a text's, [DEC] in the place of its first, real tokens first."""
        mask, ids = tokens_first(batch["attention_mask"], batch["input_ids"])
        keys: tuple[jax.Array | None, ...] = (None, None) if key is None else tuple(jax.random.split(key))
        _, read = self.qformer.read(self.query_tokens[...], self.encode(batch)["image"], key=keys[0])
        return self._to_logits(self.qformer.write(self._begun(ids), mask, read, key=keys[1]))

    @in_layout_of("trained")
    def prefill(self, media: Media, batch: Batch) -> Context:
        """See `protocol.Answers`; a prompt is [CLS] text [SEP], read as [DEC] text."""
        mask, ids = tokens_first(batch["attention_mask"], batch["input_ids"])
        ids = self._begun(ids)
        place = jnp.arange(ids.shape[1])
        last = jnp.sum(mask != 0, axis=1, keepdims=True) - 1
        ended = (place == last) & (ids == self.config.sep_token_id)
        mask = mask.astype(bool) & ~ended
        # As Hugging Face has them: the padding before the text.
        order = jnp.argsort(mask, axis=1, stable=True)
        shown = jnp.take_along_axis(ids, order, axis=1)
        _, read = self.qformer.read(self.query_tokens[...], media["image"])
        return {"first": shown[:, -1], "ids": shown, **self.qformer.prefill(ids, mask, read)}

    @in_layout_of("trained")
    def init_cache(self, context: Context, rows: int, length: int) -> Cache:
        """See `protocol.Answers`."""
        return self.qformer.init_cache(context, rows, length)

    @in_layout_of("trained")
    def decode(
        self,
        ids: jax.Array,
        context: Context,
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """See `protocol.Answers`."""
        hidden, cache = self.qformer.decode(ids, context, cache, index, origin)
        return self._to_logits(hidden), cache
