"""The protocols of a system: everything that training, decoding, evaluation, planning and conversion use.

A system is a frozen configuration (`SystemConfig`), which describes everything without memory, and an `nnx.Module` that
it builds (`System`), which is merged and called only inside jitted functions. A system that generates text is also
`Answers`, one that compares images and texts `Compares`, and one that classifies them `Classifies`; a system may be
several of these. CONTRIBUTING.md has a recipe.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
from flax import nnx

from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.models.layers.lora import Lora
from instructblip_jax.objectives.term import Term
from instructblip_jax.sharding import Layout

Batch = Mapping[str, jax.Array]
"""Arrays under the keys that `SystemConfig.batch` lists."""
Media = dict[str, jax.Array]
"""Encoded media by name, with rows first: {"image": [B, P, D]}, {"image": [B, F, P, D]} for frames, {"audio": ...}."""
Memory = dict[str, jax.Array]
"""State that changes in training but is not trained: momentum copies, queues. Empty for most systems."""
Context = dict[str, Any]
"""The state that all continuations of a row share: arrays with rows first, or lists and stacks of them."""
Shapes = dict[str, jax.ShapeDtypeStruct]

TOWER, LANGUAGE = "tower", "language"
"""Roles of parts: an encoder of media; the language model."""


class SystemConfig(Protocol):
    """A frozen dataclass: the sizes of all parts, and all properties of the system that the rest of the package
    uses."""

    parts: ClassVar[Mapping[str, str]]
    """Part -> role. A part is the first component of its parameters' paths, and has its own layout."""
    trainable_sets: ClassVar[Mapping[str, tuple[str, ...]]]
    """Name -> path prefixes of the trainable parameters, the default set first. The prefix "" is every parameter."""
    media_keys: ClassVar[tuple[str, ...]]
    """Batch keys of media, which `System.encode` reads and decoding does not. Images may be bytes, with their scale
    under another key: `instructblip_jax.pixels.numbers` gives the numbers of either form."""
    label_keys: ClassVar[tuple[str, ...]]
    """Batch keys that only the loss reads."""
    feature_keys: ClassVar[Mapping[str, str]]
    """Media key -> the key of its cached features, which may replace it; empty if nothing can be cached."""

    @property
    def in_batch(self) -> bool:
        """True if the loss of a row depends on the other rows of its batch; accumulation is then refused."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens for which `Answers.decode` gives logits."""

    @property
    def end_ids(self) -> int | tuple[int, ...]:
        """The token, or the tokens, that end an answer by default."""

    @property
    def pad_id(self) -> int:
        """The id that pads answers after their end."""

    @property
    def prompt_is_counted(self) -> bool:
        """True if a repetition penalty counts the prompt's tokens by default."""

    def configured(self, **options: Any) -> "SystemConfig":
        """The same system with system-specific options (`config.system`, keyword arguments of `from_pretrained`).

        Raises ValueError naming an unknown option, and the known ones.
        """

    def build(
        self, *, dtype: Any, rngs: nnx.Rngs, layout: Layout, remat: str, int8: Int8, trained: tuple[str, ...]
    ) -> "System":
        """The module. ``trained``: path prefixes of the trainable set, so that no gradient enters a frozen tower."""

    def batch(
        self, rows: int, prompt: int, response: int = 0, kinds: tuple[str, ...] = ("image",), *, training: bool = True
    ) -> Shapes:
        """Shape and type of every array of a batch, the only description of it, on which fake data, tracing, `plan` and
        the processor's padding are based.

        ``prompt``, ``response``: static text lengths in tokens. ``kinds``: the media of each row, in reading order.
        ``training=False``: a batch of prompts for generation, without responses and labels.
        """

    def feature_weights(self, path: str) -> bool:
        """True for the parameters from which cached features are computed."""

    def feature_settings(self) -> Mapping[str, Any]:
        """Everything except weights that cached features depend on, as JSON: the sizes of the tower."""

    def trains_features(self, trained: tuple[str, ...]) -> bool:
        """True if a trainable set with these prefixes changes the parameters from which features are computed."""


class System(Protocol):
    """An `nnx.Module` built by its configuration."""

    def encode(self, batch: Batch) -> Media:
        """The encoded media of a batch, or of their cached features, independent of the instruction."""

    def loss(
        self, batch: Batch, *, memory: Memory, step: jax.Array | int, key: jax.Array | None = None
    ) -> tuple[dict[str, Term], Memory]:
        """The loss terms of each row, and the memory after this batch. ``key`` enables dropout in the trained parts;
        ``step`` counts optimizer steps, for ramps."""


class Features(Protocol):
    """A system whose frozen towers' outputs can be cached on disk."""

    def features(self, batch: Batch) -> dict[str, jax.Array]:
        """Media key -> the result of the part of `System.encode` that is never trained, rows first."""


@runtime_checkable
class Remembers(Protocol):
    """A configuration whose system has state in addition to its parameters."""

    def begin_memory(self, train: Mapping[str, jax.Array]) -> Memory:
        """The memory before the first step: copies of trained parameters, empty queues."""

    def follow(self, memory: Memory, train: Mapping[str, jax.Array]) -> Memory:
        """The memory at the beginning of a step, before its loss: momentum copies move towards their parameters."""


@runtime_checkable
class Looks(Protocol):
    """A configuration whose system reads a picture's patches by cross-attention: it has `Watches.look`."""

    @property
    def queries_read_text(self) -> bool:
        """True if learnt queries read the instruction beside the picture, and can also read the picture alone."""


@runtime_checkable
class Adapts(Protocol):
    """A configuration whose language model may have LoRA adapters."""

    @property
    def lora(self) -> Lora:
        """Their sizes."""


@runtime_checkable
class Forbids(Protocol):
    """A configuration with tokens that no answer may contain."""

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """These tokens, such as placeholders of images and the tags around them."""


@runtime_checkable
class Shows(Protocol):
    """A configuration with trainable sets for different media."""

    def shows(self, trained: tuple[str, ...]) -> tuple[str, ...]:
        """The kinds of media in a row, for planning a run with the trainable set of these path prefixes."""


class Watches(Protocol):
    """A system that reads a picture's patches by cross-attention."""

    def look(self, batch: Batch) -> dict[str, jax.Array]:
        """One picture, or the F frames of a video, and a text or none in each row -> `maps.QUERIES` and `maps.WORDS`,
        those that there are: float32 [B, (F,) R, grid, grid], the attention of each of R readers in the last
        cross-attention, averaged over heads. A reader's map sums to 1 less the part of what is no patch: a class
        token, latents. Words stand in their order, those of the padding last."""


class Answers(Protocol):
    """A system that generates text."""

    def logits(self, batch: Batch, *, key: jax.Array | None = None) -> jax.Array:
        """float32 [B, T, V], in Hugging Face's convention."""

    def prefill(self, media: Media, batch: Batch) -> Context:
        """Encoded media and prompts -> the context that all continuations of each row share: "first" [B], the token to
        continue from; "ids" [B, S], the tokens before the answer, as Hugging Face counts them; and the system's own
        arrays."""

    def init_cache(self, context: Context, rows: int, length: int) -> Any:
        """An empty KV cache for ``length`` new tokens of ``rows`` continuations of each row."""

    def decode(
        self,
        ids: jax.Array,
        context: Context,
        cache: Any = None,
        index: jax.Array | int = 0,
        origin: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Continuations int [B, N, T] -> float32 logits [B, N, T, V] of the tokens after them, and the updated cache.

        Without a cache the ids begin the answer; with one they continue it at ``index``. ``origin``: int [B, N, T],
        the row of the cache that holds each continuation's token at each position, if that is not its own row.
        """


class Compares(Protocol):
    """A system that embeds images and texts in one space, and predicts whether they match."""

    def embed_media(self, media: Media) -> jax.Array:
        """Encoded media -> float32 unit vectors [B, E], or [B, Q, E] if the system has Q query embeddings."""

    def embed_texts(self, batch: Batch) -> jax.Array:
        """Texts -> float32 unit vectors [N, E]."""

    def match(self, media: Media, batch: Batch) -> jax.Array:
        """float32 logits [B, 2] of each row's media and text: no match, and match."""


class Classifies(Protocol):
    """A system that classifies a row's media and text as one of its configuration's ``classes``."""

    def classify(self, media: Media, batch: Batch) -> jax.Array:
        """float32 logits [B, C], in the order of ``classes``."""
