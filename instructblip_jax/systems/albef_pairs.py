"""ALBEF for pre-training and retrieval (arXiv 2107.07651, sections 3.2 to 3.4): contrast, matching, masked words."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import LmHead
from instructblip_jax.models.layers.attention import mask_bias
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.objectives import contrast, matching
from instructblip_jax.objectives.lm import IGNORE
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import Layout
from instructblip_jax.systems import momentum
from instructblip_jax.systems.albef import AlbefConfig, AlbefSystem, distilled
from instructblip_jax.systems.pairs import PICTURE, TEMPERATURE, PairConfig, interleaved, rows_of, within_bounds
from instructblip_jax.systems.picture_text import first, split
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.protocol import Batch, Media, Memory

MASKED, REPLACED, RANDOM = 0.15, 0.8, 0.5
"""Fraction of words to be predicted; of these, the fraction replaced by [MASK]; of the rest, the fraction replaced by a
random word (section 3.2)."""


@dataclasses.dataclass(frozen=True)
class AlbefPairConfig(PairConfig, AlbefConfig):
    """Pre-training ("itc", "itm", "mlm") or, without ``masked_words``, retrieval ("itc", "itm").

    A batch contains "picture", the identities of the rows' images, only in retrieval.
    """

    masked_words: bool = True

    queries_read_text: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = (*AlbefConfig.options, "queue_size")

    @property
    def copied(self) -> tuple[str, ...]:
        """See `AlbefConfig`; in retrieval the teacher only compares."""
        more = ("fusion", "head") if self.masked_words else ()
        return ("vit", "embeddings", "text", "vision_proj", "text_proj", *more)

    @property
    def identifies_pictures(self) -> bool:
        """See `PairConfig`."""
        return not self.masked_words

    def system(self) -> type["AlbefPairs"]:
        """See `PictureTextConfig`."""
        return AlbefPairs


class Draws(NamedTuple):
    """The random numbers of a batch's loss: uniform in [0, 1), float32, and words.

    Attributes:
      image: [B], for the negative image of each text.
      text: [B], for the negative text of each image.
      mask, replace, random: [B, T], for the words to be predicted and their replacements.
      words: int [B, T], random words.
    """

    image: jax.Array
    text: jax.Array
    mask: jax.Array
    replace: jax.Array
    random: jax.Array
    words: jax.Array


def draw(key: jax.Array, rows: int, length: int, words: int) -> Draws:
    """Draws for a batch of B ``rows`` with texts of ``length`` tokens, over a vocabulary of ``words``."""
    keys = jax.random.split(key, 6)
    image, text = (jax.random.uniform(k, (rows,)) for k in keys[:2])
    mask, replace, random = (jax.random.uniform(k, (rows, length)) for k in keys[2:5])
    return Draws(image, text, mask, replace, random, jax.random.randint(keys[5], (rows, length), 0, words))


def corrupt(ids: jax.Array, mask: jax.Array, draws: Draws, cls_id: int, mask_id: int) -> tuple[jax.Array, jax.Array]:
    """Ids and mask int [B, T] -> ids with some words replaced, and labels of the original words, or `IGNORE`.

    Every token except [CLS] and padding may be selected.
    """
    guessed = (draws.mask < MASKED) & (mask != 0) & (ids != cls_id)
    hidden = guessed & (draws.replace < REPLACED)
    other = guessed & ~hidden & (draws.random < RANDOM)
    shown = jnp.where(hidden, mask_id, jnp.where(other, draws.words, ids))
    return shown, jnp.where(guessed, ids, IGNORE)


class AlbefPairs(AlbefSystem):
    """See the module."""

    config: AlbefPairConfig

    def __init__(self, config: AlbefPairConfig, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, layout=layout, remat=remat)
        width, kind = config.text.hidden_size, {"dtype": dtype, "rngs": rngs}
        self.vision_proj = linear(config.vision.hidden_size, config.embed_dim, ("embed", None), **kind)
        self.text_proj = linear(width, config.embed_dim, ("embed", None), **kind)
        self.itm_head = linear(width, 2, ("embed", None), **kind)
        self.temp = nnx.Param(jnp.float32(TEMPERATURE), axes=())
        self.head: Any = LmHead(config.text, dtype=dtype, rngs=rngs) if config.masked_words else None

    # Comparing

    @in_layout_of("trained")
    def embed_media(self, media: Media) -> jax.Array:
        """See `protocol.Compares`: float32 [B, E]."""
        return contrast.unit(self.vision_proj(media["image"][:, 0]))

    @in_layout_of("trained")
    def embed_texts(self, batch: Batch) -> jax.Array:
        """See `protocol.Compares`: float32 [N, E]."""
        mask, ids = first(batch)
        return self._embedded(self.read(ids, mask))

    @in_layout_of("trained")
    def match(self, media: Media, batch: Batch) -> jax.Array:
        """See `protocol.Compares`: float32 [B, 2]."""
        mask, ids = first(batch)
        return self._matched(self.read(ids, mask), mask, media["image"])

    def _embedded(self, states: jax.Array) -> jax.Array:
        return contrast.unit(self.text_proj(states[:, 0]))

    def _matched(self, states: jax.Array, mask: jax.Array, image: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Text states [B, T, D] and image tokens [B, P, V] -> float32 logits [B, 2]."""
        return self.itm_head(self.fusion(states, mask_bias(mask), image, key=key)[:, 0]).astype(jnp.float32)

    # Training

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`."""
        return self.looked(batch, self.attention)

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """The terms "itc" and "itm" and, in pre-training, "mlm" (section 3.2), with momentum distillation (3.4).

        ``key`` also draws negatives and masked words; it defaults to key 0.
        """
        mask, ids = first(batch)
        drawn, dropped = jax.random.split(jax.random.key(0) if key is None else key)
        rows, length = ids.shape
        draws = draw(drawn, rows, length, self.config.text.vocab_size)
        return self.terms(batch, ids, mask, memory, self.alpha(step), draws, None if key is None else dropped)

    def terms(
        self,
        batch: Batch,
        ids: jax.Array,
        mask: jax.Array,
        memory: Memory,
        alpha: jax.Array | float,
        draws: Draws,
        key: jax.Array | None = None,
    ) -> tuple[dict[str, Term], Memory]:
        """`loss` with its random numbers given; ids and mask int [B, T], real tokens first."""
        config, rows = self.config, ids.shape[0]
        matching.check_rows(rows)
        keys = split(key, 5)
        teacher = self.teacher(memory)
        image, text = self.encode(batch)["image"], self.read(ids, mask, keys[0])
        other_image, other_text = teacher.encode(batch)["image"], teacher.read(ids, mask, keys[1])
        own = contrast.unit(self.vision_proj(image[:, 0])), self._embedded(text)
        theirs = contrast.unit(teacher.vision_proj(other_image[:, 0])), teacher._embedded(other_text)
        theirs = jax.lax.stop_gradient(theirs)

        pictures = None if config.masked_words else batch.get(PICTURE)
        temperature = within_bounds(self.temp[...]) if config.masked_words else self.temp[...]
        itc, to_texts, to_images = momentum.contrast_with_queues(own, theirs, memory, temperature, alpha, pictures)
        same = jnp.eye(rows, dtype=bool) if pictures is None else contrast.same_picture(pictures, pictures)
        wrong_image = matching.pick(matching.chances(to_images[:, :rows], same), draws.image)
        wrong_text = matching.pick(matching.chances(to_texts[:, :rows], same), draws.text)
        # The three kinds of pairs in one pass: a text with its image, with a negative image, a negative text with an
        # image.
        pairs = self._matched(
            interleaved(text, text, rows_of(text, wrong_text)),
            interleaved(mask, mask, rows_of(mask, wrong_text)),
            interleaved(image, rows_of(image, wrong_image), image),
            keys[2],
        ).reshape(rows, 3, 2)
        terms = {"itc": itc, "itm": matching.matching_term(pairs[:, 0], pairs[:, 1], pairs[:, 2])}
        if config.masked_words:
            shown, labels = corrupt(ids, mask, draws, config.cls_id, config.mask_id)
            guesses = self._guesses(shown, mask, image, keys[3])
            taught = teacher._guesses(shown, mask, other_image, keys[4])
            terms["mlm"] = Term(*distilled(guesses, labels, taught, alpha))
        return terms, momentum.enqueue(memory, *theirs, pictures)

    def _guesses(self, ids: jax.Array, mask: jax.Array, image: jax.Array, key: jax.Array | None) -> jax.Array:
        """Logits float32 [B, T, V] of the word at each position, given the image."""
        return self.head(self.read_with(image, ids, mask, key), self.embeddings.word)
