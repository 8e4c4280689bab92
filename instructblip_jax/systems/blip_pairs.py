"""BLIP for pre-training and retrieval (arXiv 2201.12086, sections 3.2 and 4.2): contrast, matching, generation."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.language.bert import LmHead, Writer, self_attention
from instructblip_jax.models.layers.primitives import linear
from instructblip_jax.objectives import contrast, matching
from instructblip_jax.objectives.lm import IGNORE, chunked_cross_entropy
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import constrain
from instructblip_jax.systems import momentum
from instructblip_jax.systems.blip import BlipConfig, BlipSystem, Encoder
from instructblip_jax.systems.pairs import PICTURE, TEMPERATURE, PairConfig, interleaved, rows_of, within_bounds
from instructblip_jax.systems.picture_text import first, split
from instructblip_jax.systems.prefix import in_layout_of
from instructblip_jax.systems.protocol import Batch, Media, Memory


@dataclasses.dataclass(frozen=True)
class BlipPairConfig(PairConfig, BlipConfig):
    """Pre-training ("itc", "itm", "lm") or, without ``writes``, retrieval ("itc", "itm").

    A batch contains "picture", the identities of the rows' images, only in retrieval.
    """

    writes: bool = False

    queries_read_text: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = (*BlipConfig.options, "alpha", "ramp_steps", "queue_size", "label_smoothing")

    @property
    def copied(self) -> tuple[str, ...]:
        """The copies that compute features, which have no cross-attention."""
        read = ("embeddings", "layers/self_attention", "layers/ffn", "vision_proj", "text_proj")
        return ("vit", *(f"med/{name}" for name in read))

    @property
    def identifies_pictures(self) -> bool:
        """See `PairConfig`."""
        return not self.writes

    def system(self) -> type["BlipPairs"]:
        """See `PictureTextConfig`."""
        return BlipPairs


class Compared(Encoder):
    """The encoder with its projections and heads and, if it ``writes``, the decoder's own parameters."""

    def __init__(self, config: BlipPairConfig, *, dtype: Any, rngs: nnx.Rngs, remat: str):
        super().__init__(config, dtype=dtype, rngs=rngs, remat=remat)
        text, kind = config.text, {"dtype": dtype, "rngs": rngs}
        self.vision_proj = linear(config.vision.hidden_size, config.embed_dim, ("embed", None), **kind)
        self.text_proj = linear(text.hidden_size, config.embed_dim, ("embed", None), **kind)
        self.itm_head = linear(text.hidden_size, 2, ("embed", None), **kind)
        self.temp = nnx.Param(jnp.float32(TEMPERATURE), axes=())
        layers = text.num_hidden_layers
        self.decoder_attention = self_attention(text, layers, dtype=dtype, rngs=rngs) if config.writes else None
        self.head = LmHead(text, dtype=dtype, rngs=rngs) if config.writes else None

    def of_images(self, image: jax.Array) -> jax.Array:
        """Image tokens [B, P, V] -> float32 unit vectors [B, E]."""
        return contrast.unit(self.vision_proj(image[:, 0]))

    def of_texts(self, ids: jax.Array, mask: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Texts int [B, T], read without the image -> float32 unit vectors [B, E]."""
        return contrast.unit(self.text_proj(self.read(ids, mask, key=key)[:, 0]))

    @property
    def writer(self) -> Writer:
        """The decoder: the encoder with its own self-attention and head (section 3.1)."""
        assert self.head is not None
        return Writer(self.embeddings, self.layers, self.head, self.decoder_attention)


class BlipPairs(BlipSystem):
    """See the module."""

    config: BlipPairConfig

    def mixture(self, *, dtype: Any, rngs: nnx.Rngs, remat: str) -> Compared:
        """See `BlipSystem`."""
        return Compared(self.config, dtype=dtype, rngs=rngs, remat=remat)

    # Comparing

    @in_layout_of("trained")
    def embed_media(self, media: Media) -> jax.Array:
        """See `protocol.Compares`: float32 [B, E]."""
        return self.med.of_images(media["image"])

    @in_layout_of("trained")
    def embed_texts(self, batch: Batch) -> jax.Array:
        """See `protocol.Compares`: float32 [N, E]."""
        mask, ids = first(batch)
        return self.med.of_texts(ids, mask)

    @in_layout_of("trained")
    def match(self, media: Media, batch: Batch) -> jax.Array:
        """See `protocol.Compares`: float32 [B, 2]."""
        mask, ids = first(batch)
        return self._matched(ids, mask, media["image"])

    def _matched(self, ids: jax.Array, mask: jax.Array, image: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Texts int [B, T] and image tokens [B, P, V] -> float32 logits [B, 2]."""
        states = self.med.read(ids.at[:, 0].set(self.config.enc_id), mask, image, key=key)
        return self.med.itm_head(states[:, 0]).astype(jnp.float32)

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`: a text as `match` reads it."""
        return self.looked(batch, lambda ids, *read: self.med.look(ids.at[:, 0].set(self.config.enc_id), *read))

    # Training

    @in_layout_of("trained")
    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """The terms "itc" and "itm" and, in pre-training, "lm". Negatives come from the whole global batch.

        ``key`` also draws negatives; it defaults to key 0.
        """
        drawn = jax.random.split(jax.random.key(0) if key is None else key, 3)
        rows = batch["input_ids"].shape[0]
        uniforms = [jax.random.uniform(one, (rows,)) for one in drawn[:2]]
        dropped = None if key is None else drawn[2]
        return self.terms(batch, memory, self.alpha(step), *uniforms, key=dropped)

    def terms(
        self,
        batch: Batch,
        memory: Memory,
        alpha: jax.Array | float,
        for_texts: jax.Array,
        for_images: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> tuple[dict[str, Term], Memory]:
        """`loss` for given draws: uniform numbers [B], which determine the negative image of each row's text and the
        negative text of each row's image. ``key``: for dropout."""
        matching.check_rows(batch["input_ids"].shape[0])
        keys, (mask, ids) = split(key, 6), first(batch)
        pictures = batch.get(PICTURE) if momentum.PICTURES in memory else None
        image = self.image(batch, keys[0])
        own = self.med.of_images(image), self.med.of_texts(ids, mask, keys[1])
        teacher = self.teacher(memory)
        theirs = teacher.med.of_images(teacher.image(batch, keys[2])), teacher.med.of_texts(ids, mask, keys[3])
        theirs = jax.lax.stop_gradient(theirs)
        temperature = within_bounds(self.med.temp[...])
        itc, to_texts, to_images = momentum.contrast_with_queues(own, theirs, memory, temperature, alpha, pictures)
        of_texts, of_images = self._chances(own, to_texts, to_images, temperature, pictures)
        wrong_image, wrong_text = matching.pick(of_texts, for_texts), matching.pick(of_images, for_images)
        logits = self._matched(
            interleaved(ids, ids, rows_of(ids, wrong_text)),
            interleaved(mask, mask, rows_of(mask, wrong_text)),
            interleaved(image, rows_of(image, wrong_image), image),
            keys[4],
        ).reshape(-1, 3, 2)
        terms = {"itc": itc, "itm": matching.matching_term(logits[:, 0], logits[:, 1], logits[:, 2])}
        if self.config.writes:
            written = ids.at[:, 0].set(self.config.dec_id)
            hidden = self.med.writer.hidden(written, mask, image, key=keys[5])[:, :-1]
            labels, smoothing = jnp.where(mask == 0, IGNORE, ids)[:, 1:], self.config.label_smoothing
            terms["lm"] = chunked_cross_entropy(self._to_logits, hidden, labels, smoothing=smoothing)
        return terms, momentum.enqueue(memory, *theirs, pictures)

    def _chances(
        self,
        own: tuple[jax.Array, jax.Array],
        to_texts: jax.Array,
        to_images: jax.Array,
        temperature: jax.Array,
        pictures: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """The probability of each image as a text's negative, and of each text as an image's, float32 [B, B].

        Pre-training uses the momentum features and gives every candidate a positive probability; retrieval uses the
        features themselves.
        """
        rows = own[0].shape[0]
        same = jnp.eye(rows, dtype=bool) if pictures is None else contrast.same_picture(pictures, pictures)
        if self.config.writes:
            similar, floor = (to_images[:, :rows], to_texts[:, :rows]), matching.FLOOR
        else:
            images, texts = own
            similar, floor = (texts @ images.T / temperature, images @ texts.T / temperature), 0.0
        of_texts, of_images = (matching.chances(x, same, floor) for x in similar)
        return of_texts, of_images

    def _to_logits(self, hidden: jax.Array) -> jax.Array:
        return constrain(self.med.writer.logits(hidden), "batch", None, "vocab")
