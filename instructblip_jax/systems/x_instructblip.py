"""X-InstructBLIP (arXiv 2311.18799): one frozen language model that reads pictures, videos, sounds and point clouds.

Each modality has a frozen tower, and a norm, a Q-Former that reads the instruction, queries and a projection of its
own, which train on this modality's data alone. Any of them are used together, in any order among the words.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from instructblip_jax.models.bridges.projector import projector
from instructblip_jax.models.bridges.qformer import QFormer, QFormerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.primitives import layer_norm, parameter
from instructblip_jax.models.towers.beats import Beats, BeatsConfig
from instructblip_jax.models.towers.point_bert import PointBert, PointBertConfig
from instructblip_jax.models.towers.vit import Vit, VitConfig
from instructblip_jax.pixels import numbers
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.instructblip import TRAINED_INSTRUCTION
from instructblip_jax.systems.interleaved import InterleavedSystem, nth
from instructblip_jax.systems.maps import QUERIES, on_grid
from instructblip_jax.systems.prefix import PrefixConfig, PrefixSystem, in_layout_of, picture_shapes, tokens_first
from instructblip_jax.systems.protocol import LANGUAGE, TOWER, Batch, Media, Shapes

MODALITIES = ("image", "video", "audio", "pc")
"""Everything that there is a tower for."""
KINDS = {"image": "image", "video": "frame", "audio": "audio", "pc": "points"}
"""Modality -> the kind of its media; a run of frames is a video."""
READERS = {kind: modality for modality, kind in KINDS.items()}
"""The inverse of `KINDS`."""
MEDIA = {"image": "pixel_values", "video": "video_values", "audio": "audio_values", "pc": "point_values"}
"""Modality -> its batch key."""
FEATURES = {"image": "image_features", "video": "video_features", "audio": "audio_features", "pc": "point_features"}
"""Modality -> the batch key of its cached features."""
NORM_EPS = 1e-5
"""The epsilon of the norms between towers and Q-Formers, torch's default."""


def trained_paths(modality: str) -> tuple[str, ...]:
    """Path prefixes of what trains for one modality."""
    return tuple(f"{modality}_{part}" for part in ("norm", "qformer", "query_tokens", "projector"))


class TrainableSets:
    """The sets of all modalities together and of each alone: a configuration's own, or, of the class, all there are."""

    def __get__(self, config: Any, owner: type) -> Mapping[str, tuple[str, ...]]:
        alone = {f"qformer_{name}": trained_paths(name) for name in (config.modalities if config else MODALITIES)}
        return {"qformers": tuple(path for paths in alone.values() for path in paths), **alone}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The texts between which the language model finds the media, as a checkpoint was trained with them.

    The original's runs have the defaults; its "improved" ones "USER: " before everything, a line with "ASSISTANT:"
    behind the instruction, and ``clean``.

    Attributes:
      prefix: stands before the media.
      postfix: stands behind the instruction, and is read as one text with it.
      clean: the begin token stands once, before everything, and cues have no leading blank; otherwise it stands before
        every cue and before the instruction.
      cues: a cue before each medium says its modality.
      add_space: a blank behind each medium, but not in training.
    """

    prefix: str = ""
    postfix: str = ""
    clean: bool = False
    cues: bool = True
    add_space: bool = False


@dataclasses.dataclass(frozen=True)
class XInstructBlipConfig(PrefixConfig):
    """Sizes of all parts; see `protocol.SystemConfig`. The defaults are the published models'.

    Attributes:
      modalities: those that this model reads, in the order in which a prompt has them where nothing else says it.
      qformer: sizes of every modality's Q-Former; what it attends to is as wide as its tower.
      vision, audio, points: the towers, None where no modality reads them; pictures and videos share one.
      frames: pictures of a video.
      blocks, block, mels: pieces of a clip, frames of a piece, and mel bands of a frame.
      cloud: points of a cloud.
      stored_image_size: as in `systems.instructblip.InstructBlipConfig`.
    """

    text: LlamaConfig
    qformer: QFormerConfig
    modalities: tuple[str, ...]
    vision: VitConfig | None = None  # type: ignore[assignment]
    audio: BeatsConfig | None = None
    points: PointBertConfig | None = None
    num_query_tokens: int = 32
    frames: int = 5
    blocks: int = 2
    block: int = 512
    mels: int = 128
    cloud: int = 8192
    prompt: Prompt = Prompt()
    stored_image_size: int = 0

    parts: ClassVar[Mapping[str, str]] = {"vit": TOWER, "beats": TOWER, "point_bert": TOWER, "llm": LANGUAGE}
    trainable_sets: ClassVar[Any] = TrainableSets()
    kind_of: ClassVar[Mapping[str, str]] = KINDS
    key_of: ClassVar[Mapping[str, str]] = MEDIA
    media_keys: ClassVar[tuple[str, ...]] = tuple(MEDIA.values())
    feature_keys: ClassVar[Mapping[str, str]] = {MEDIA[name]: FEATURES[name] for name in MODALITIES}
    reads_instruction: ClassVar[bool] = True
    queries_read_text: ClassVar[bool] = True

    def _has_tower(self, modality: str) -> bool:
        tower = {"audio": self.audio, "pc": self.points}.get(modality, self.vision)
        return tower is not None

    def width(self, modality: str) -> int:
        """Numbers of a tower's token."""
        if modality in ("image", "video"):
            assert self.vision is not None
            return self.vision.hidden_size
        tower = self.audio if modality == "audio" else self.points
        assert tower is not None
        return tower.width

    def vectors(self, modality: str) -> int:
        """Tokens of the text that a medium takes up: its queries, those of each frame or block of a sequence."""
        return self.num_query_tokens * {"video": self.frames, "audio": self.blocks}.get(modality, 1)

    def token_id(self, modality: str) -> int:
        """The id that holds the place of each vector: the ones behind the vocabulary, for which it has no row."""
        return self.text.vocab_size + MODALITIES.index(modality)

    def sequence(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """Kinds of a row's media in reading order -> the modalities that read them: ``frames`` frames are one video.

        Raises ValueError for media that this model has no tower for, or a video of another number of frames.
        """
        found: list[str] = []
        run = 0
        for kind, following in itertools.pairwise((*kinds, "")):
            modality = READERS[kind]
            if not self._has_tower(modality):
                raise ValueError(f"the row shows {kind}, and this model reads {', '.join(self.modalities)}")
            run += modality == "video"
            if modality != "video" or run % self.frames == 0:
                found.append(modality)
            elif following != kind:
                raise ValueError(f"a video has {run} frames, and this model reads {self.frames} of each")
            run = run if following == kind else 0
        return tuple(found)

    def shows(self, trained: tuple[str, ...]) -> tuple[str, ...]:
        """See `protocol.Shows`: a medium of each modality that trains."""
        return tuple(
            kind
            for name in self.modalities
            if {*trained_paths(name)} & {*trained}
            for kind in [KINDS[name]] * (self.frames if name == "video" else 1)
        )

    def instruction_limit(self, *, training: bool) -> int:
        """Tokens of an instruction that the Q-Formers read, its last ones: in training as many as the original's."""
        positions = self.qformer.max_position_embeddings
        return min(TRAINED_INSTRUCTION, positions) if training else positions

    def configured(
        self, *, image_size: int = 0, frames: int = 0, blocks: int = 0, **others: Any
    ) -> "XInstructBlipConfig":
        """The same for pictures of ``image_size`` pixels a side, videos of ``frames`` pictures and clips of ``blocks``
        pieces; 0 is the checkpoint's own.

        Raises ValueError for another option, or a size of pictures where none are read or that patches do not divide.
        """
        if others:
            raise ValueError(f"{', '.join(others)}: this system has the options image_size, frames and blocks")
        counted = dataclasses.replace(self, frames=frames or self.frames, blocks=blocks or self.blocks)
        if min(counted.frames, counted.blocks) < 1:
            raise ValueError(f"frames {frames}, blocks {blocks}: they are at least 1, or 0 for the checkpoint's own")
        if self.vision is not None:
            return PrefixConfig.configured(counted, image_size=image_size)
        if image_size:
            raise ValueError(f"image_size: this model reads {', '.join(self.modalities)}, no pictures")
        return counted

    def build(
        self,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        trained: tuple[str, ...] = (),
    ) -> "XInstructBlipSystem":
        """See `protocol.SystemConfig`; no trainable set has a tower or the language model."""
        return XInstructBlipSystem(self, dtype=dtype, rngs=rngs, layout=layout, remat=remat, int8=int8)

    def batch(
        self,
        rows: int,
        prompt: int,
        response: int = 0,
        kinds: tuple[str, ...] | None = None,
        *,
        training: bool = True,
    ) -> Shapes:
        """See `protocol.SystemConfig`; without ``kinds`` a medium of each modality. ``prompt`` does not count what
        stands for media, but their cues."""
        sequence = self.modalities if kinds is None else self.sequence(kinds)
        text = sum(map(self.vectors, sequence)) + prompt + (response if training else 0)
        names = ("input_ids", "attention_mask", *(("labels",) if training else ()))
        shapes = {name: jax.ShapeDtypeStruct((rows, text), jnp.int32) for name in names}
        length = min(prompt, self.instruction_limit(training=training))
        for name in ("qformer_input_ids", "qformer_attention_mask"):
            shapes[name] = jax.ShapeDtypeStruct((rows, length), jnp.int32)
        for modality in dict.fromkeys(sequence):
            shapes |= self.media_shapes(modality, rows, sequence.count(modality))
        return shapes

    def media_shapes(self, modality: str, rows: int, count: int) -> Shapes:
        """The arrays of ``count`` media of a modality in each row."""
        key = MEDIA[modality]
        if modality in ("image", "video"):
            assert self.vision is not None
            frames = (self.frames,) if modality == "video" else ()
            return picture_shapes(self.vision, rows, count, *frames, key=key)
        shape = (self.blocks, self.block, self.mels) if modality == "audio" else (self.cloud, 3)
        return {key: jax.ShapeDtypeStruct((rows, count, *shape), jnp.float32)}

    def feature_weights(self, path: str) -> bool:
        """All of the towers."""
        return path.startswith(("vit/", "beats/", "point_bert/"))

    def feature_settings(self) -> Mapping[str, Any]:
        """See `protocol.SystemConfig`."""
        towers = {"vision": self.vision, "audio": self.audio, "points": self.points}
        return {name: dataclasses.asdict(tower) for name, tower in towers.items() if tower is not None}

    def trains_features(self, trained: tuple[str, ...]) -> bool:
        """See `protocol.SystemConfig`: no set does."""
        return False


class XInstructBlipSystem(PrefixSystem):
    """See the module. ``dtype``: compute type. ``remat``: what the backward pass keeps of the language model.
    ``int8``: its matrices take one byte a weight, or multiply in int8 as well."""

    chunk: ClassVar[int] = InterleavedSystem.chunk

    def __init__(
        self,
        config: XInstructBlipConfig,
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
    ):
        self.config, self.layout, self.dtype = config, layout, dtype
        if config.vision is not None:
            self.vit = Vit(config.vision, dtype=dtype, rngs=rngs)
        if config.audio is not None:
            self.beats = Beats(config.audio, dtype=dtype, rngs=rngs)
        if config.points is not None:
            self.point_bert = PointBert(config.points, dtype=dtype, rngs=rngs)
        hidden = config.qformer.hidden_size
        for name in config.modalities:
            width = config.width(name)
            sizes = dataclasses.replace(config.qformer, encoder_hidden_size=width)
            setattr(self, f"{name}_norm", layer_norm(width, NORM_EPS, dtype=jnp.float32, rngs=rngs))
            setattr(self, f"{name}_qformer", QFormer(sizes, dtype=dtype, rngs=rngs))
            queries = parameter((config.num_query_tokens, hidden), (None, "embed"), rngs=rngs)
            setattr(self, f"{name}_query_tokens", queries)
            setattr(self, f"{name}_projector", projector(hidden, config.text.width, dtype=dtype, rngs=rngs))
        self.llm = config.text.build(dtype=dtype, rngs=rngs, remat=remat, int8=int8)

    def encode(self, batch: Batch) -> Media:
        """The towers' tokens of all media in a batch, or their cached features, by modality: "image" [B, N, P, Dv],
        "video" [B, N, F, P, Dv], "audio" [B, N, K, P, Da], "pc" [B, N, P, Dp].

        Pictures may be bytes beside their scale (`instructblip_jax.pixels`). Nothing of it trains.
        """
        made = self.features(batch)
        found = {name: batch.get(FEATURES[name], made.get(MEDIA[name])) for name in self.config.modalities}
        return {name: jax.lax.stop_gradient(x) for name, x in found.items() if x is not None}

    def features(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Features`: all of `encode`, by batch key."""
        read = {"image": self._seen, "video": self._seen, "audio": self._heard, "pc": self._felt}
        return {
            key: read[name](numbers(batch, key) if name in ("image", "video") else batch[key])
            for name, key in MEDIA.items()
            if key in batch
        }

    @in_layout_of("vit")
    def _seen(self, pixels: jax.Array) -> jax.Array:
        """Pictures [..., H, W, 3] -> [..., P, Dv]."""
        return _one_by_one(self.vit, pixels, 3)

    @in_layout_of("beats")
    def _heard(self, bands: jax.Array) -> jax.Array:
        """Blocks of mel bands [..., T, M] -> [..., P, Da]."""
        return _one_by_one(self.beats, bands, 2)

    @in_layout_of("point_bert")
    def _felt(self, points: jax.Array) -> jax.Array:
        """Clouds [..., P, 3] -> [..., 1, Dp]."""
        return _one_by_one(self.point_bert, points, 2)

    def prompt(self, media: Media, batch: Batch, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The language model's input [B, T, D] and its mask [B, T]: a row's n-th place of a modality holds its n-th
        vector."""
        ids = batch["input_ids"]
        # The places' ids have no row in the table.
        embeds = self.llm.embed(jnp.where(ids < self.config.text.vocab_size, ids, 0))
        for number, name in enumerate(MODALITIES):
            if name not in media:
                continue
            own = None if key is None else jax.random.fold_in(key, number)
            here = ids == self.config.token_id(name)
            vectors = nth(self._queried(name, media[name], batch, own), jnp.cumsum(here, axis=1) - 1)
            embeds = jnp.where(here[..., None], vectors, embeds)
        return embeds, batch["attention_mask"]

    @in_layout_of("trained")
    def _queried(self, name: str, tokens: jax.Array, batch: Batch, key: jax.Array | None) -> jax.Array:
        """A modality's tokens [B, N, (F,) P, Dv] and the instruction -> the vectors of all media of each row, frame
        after frame, [B, N * (F *) Q, D]."""
        _, qformer, queries, project = (getattr(self, path) for path in trained_paths(name))
        mask, ids = tokens_first(batch["qformer_attention_mask"], batch["qformer_input_ids"])
        found = project(qformer(queries[...], *self._asked(name, tokens, ids, mask), key=key))
        return found.reshape(tokens.shape[0], -1, found.shape[-1])

    def _asked(self, name: str, tokens: jax.Array, *text: jax.Array) -> tuple[jax.Array, ...]:
        """A modality's tokens [B, N, (F,) P, Dv], one medium or frame after the other and normalised, and ids and mask
        of each one's instruction, int [B, Tq] before."""
        flat = tokens.reshape(-1, *tokens.shape[-2:])
        # Every frame of every medium is asked what its own row is: the original mixes them up in a batch.
        repeated = (jnp.repeat(x, len(flat) // len(tokens), axis=0) for x in text)
        return getattr(self, f"{name}_norm")(flat).astype(self.dtype), *repeated

    @in_layout_of("trained")
    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """See `protocol.Watches`: a row's first picture. Raises ValueError for a model that reads no pictures."""
        tokens = self.encode(batch).get("image")
        if tokens is None or self.config.vision is None:
            raise ValueError(f"there are maps over pictures; this model reads {', '.join(self.config.modalities)}")
        text: tuple[jax.Array, ...] = ()
        if "qformer_input_ids" in batch:
            text = tokens_first(batch["qformer_attention_mask"], batch["qformer_input_ids"])[::-1]
        _, qformer, queries, _ = (getattr(self, path) for path in trained_paths("image"))
        found = qformer.look(queries[...], *self._asked("image", tokens[:, :1], *text))
        return {QUERIES: on_grid(found, self.config.vision.grid)}


def _one_by_one(tower: Any, media: jax.Array, axes: int) -> jax.Array:
    """Media [..., *one], each of so many ``axes``, through a tower: [..., P, D]."""
    tokens = tower(media.reshape(-1, *media.shape[-axes:]))
    return tokens.reshape(*media.shape[:-axes], *tokens.shape[1:])
