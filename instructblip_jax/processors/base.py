"""The base of all processors: media and texts of users and records -> a system's batch of NumPy arrays."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image

from instructblip_jax.pixels import all_numbers
from instructblip_jax.processors.augment import AugmentConfig
from instructblip_jax.processors.image import Picture
from instructblip_jax.processors.tokenizer import TextTokenizer
from instructblip_jax.processors.video import frames_of, is_video

IGNORE = -100
"""The label of a position where no loss is taken."""
MARK = "<image>"
"""Stands in a text for each picture of its row, in order, where rows hold several."""
Row = Mapping[str, np.ndarray]
"""Token rows of one sample by batch key, unpadded int32 [n]."""
Medium = tuple[str, Any]
"""A kind ("image", "frame", "audio", "points") and its content: for a picture what `processors.image.Picture` is."""
Given = Picture | Sequence[Picture]
"""The media of one row as users give them: a picture, a video's file, or the frames of a video."""


class BaseProcessor(ABC):
    """See the module. It alone knows what a batch's arrays are called; `config.batch` alone their shapes."""

    KINDS: ClassVar[tuple[str, ...]] = ("image", "frame")
    """Kinds of media that this system reads."""
    FRAMES: ClassVar[int] = 4
    """Frames that stand for a video file in a public call, as many as `prepare` takes; 0 if videos are no media of a
    public call."""
    augment: AugmentConfig = AugmentConfig()
    """How training pictures are drawn anew at each visit."""

    converses: ClassVar[bool] = False
    """True if training reads all turns of a conversation in one row (`converse`), not one of them that is drawn."""

    several: ClassVar[bool] = False
    """True if a row may hold several media. Their arrays are then [N, ...] for a row, and so are they encoded."""

    FEW_SHOT: ClassVar[str] = ""
    """The form in which this system's paper shows examples in a prompt; "" if a row holds one picture alone."""

    prompts_may_be_empty: ClassVar[bool] = False
    """True if an answer may begin at once, without an instruction."""

    config: Any
    """The system's configuration (`systems.protocol.SystemConfig`)."""
    tokenizer: TextTokenizer
    """The language model's."""
    end_id: int
    """Ends every response in training."""
    stop_ids: frozenset[int]
    """End a decoded answer."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reads {', '.join(self.KINDS)}; {self.config.vocab_size:,} tokens)"

    def __call__(
        self,
        images: Given | Sequence[Given] | None = None,
        instructions: str | Sequence[str] = "",
        responses: str | Sequence[str] | None = None,
        *,
        media: Mapping[str, Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """B pictures or videos, B instructions and, for training, B responses -> a batch padded to its longest row.

        See the contract for its keys. ``media``: beside or instead of pictures, other modalities by name, where the
        system has any, an entry a row each. Texts are read whole, as `encode` says. Raises UnusableImageError, or
        ValueError naming the row.
        """
        rows = self.rows(images, None, media=media)
        texts = self.checked(instructions, "instructions", len(rows))
        answers = [None] * len(texts) if responses is None else self.checked(responses, "responses", len(rows))
        media = self.media_of(rows)
        return {**media, **self.pad(self.encoded(rows, texts, answers))}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names under which a public call gives media that this model reads: "image", "video", "audio", "pc"."""
        return ("image", "video") if "frame" in self.KINDS and self.FRAMES else ("image",)

    # Texts

    @abstractmethod
    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded. Texts are never cut for the language model.

        ``pictures``: what `shown` says of the row's media, for systems whose text holds their places.
        """

    def asked(self, instruction: str) -> str:
        """The instruction of an evaluation as the system's paper cleans it; most papers leave it as it stands."""
        return instruction

    def converse(self, turns: Sequence[tuple[str, str | None]], pictures: int) -> Row:
        """The token rows of a whole conversation, all of whose answers are trained on; only if `converses` is true.

        ``turns``: (question, answer) pairs, one at least; None as the last answer is one that is to be written. Raises
        ValueError for turns that this system cannot hold.
        """
        raise NotImplementedError(f"{type(self).__name__} trains on one turn at a time")

    def document(self, parts: Sequence[str | int]) -> Row:
        """The token rows of a text with pictures in it, all of which is trained on: texts, and numbers of pictures, in
        reading order. Only of systems that read such documents."""
        raise NotImplementedError(f"{type(self).__name__} reads no documents")

    def cut(self, row: Row, length: int) -> tuple[Row, int]:
        """The beginning of a document's rows, of at most ``length`` tokens by `lengths`, and the number of pictures
        that have a place in it; none is cut in two. Only of systems that read documents."""
        raise NotImplementedError(f"{type(self).__name__} reads no documents")

    @abstractmethod
    def response(self, text: str) -> np.ndarray:
        """A response's tokens with the end token, int32 [n]."""

    @abstractmethod
    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens of a sample's prompt and of its response (0 without one): what a static shape must hold."""

    @abstractmethod
    def pad(self, rows: Sequence[Row], lengths: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """Token rows -> arrays [B, n] with masks, padded to ``lengths[key]``, or to the longest row of each key."""

    @abstractmethod
    def ignore(self, batch: dict[str, np.ndarray], rows: np.ndarray) -> None:
        """Make ``rows`` (bool [B]) of a batch count nothing in any loss, in place."""

    @property
    def identity_key(self) -> str:
        """The key under which a training batch says which of its rows show the same picture, int32 [B]; "" for systems
        whose loss does not ask."""
        return ""

    def batch(
        self,
        rows: Sequence[Row],
        prompt: int,
        response: int = 0,
        kinds: tuple[str, ...] = ("image",),
        *,
        training: bool = True,
    ) -> dict[str, np.ndarray]:
        """Token rows -> the texts of a batch of static lengths, as `config.batch` describes them."""
        shapes = self.config.batch(len(rows), prompt, response, kinds, training=training)
        return self.pad(rows, {key: shapes[key].shape[1] for key in rows[0]})

    def decode(self, ids: np.ndarray) -> list[str]:
        """Generated ids int [B, T] -> one text a row, up to its end token."""
        texts = []
        for row in ids:
            ends = np.flatnonzero(np.isin(row, list(self.stop_ids)))
            texts.append(self.tokenizer.decode(row[: ends[0]] if len(ends) else row))
        return texts

    def settled(self, text: str) -> str:
        """The beginning of an unfinished answer that stays the same however the answer continues."""
        return self.tokenizer.settled(text)

    # Media

    @abstractmethod
    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """The media arrays of one row, by batch key, as they are copied to the devices: pictures may be bytes beside
        their scale (`instructblip_jax.pixels`). Without media, those of a blank one.

        ``rng`` draws a training run's random augmentation; None is the fixed processing of evaluation. ``name`` names
        the row in errors. Raises UnusableImageError, or ValueError for a kind that is not among `KINDS`.
        """

    def seen(self, picture: Picture) -> Image.Image:
        """A picture as the model sees it: resized, cut or padded. Raises UnusableImageError, or ValueError for a system
        that reads no pictures."""
        raise ValueError("this system reads no pictures")

    @abstractmethod
    def blank(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Media arrays of the same shapes that show nothing."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Everything but the media that media arrays depend on, as JSON; part of the name of cached features."""

    def resizing(self, how: str) -> "BaseProcessor":
        """The same processor for pictures that are resized "exact" or "fast" (`run.config.DataConfig.resize`).

        Raises ValueError if it knows the first alone.
        """
        if how == "exact":
            return self
        raise ValueError(f"config.data.resize is {how!r}: this system's media are not pictures; it is 'exact'")

    def augmenting(self, augment: AugmentConfig) -> "BaseProcessor":
        """The same processor, whose training pictures are drawn as ``augment`` says.

        Raises ValueError if anything is to be drawn, and its media are not pictures.
        """
        if not augment.is_on:
            return self
        raise ValueError("config.data.augment: this system's media are not pictures; leave its fields out")

    @property
    def augments(self) -> bool:
        """True if `media` draws anything in training; its media then cannot be cached as features."""
        return self.augment.is_on

    def feature_key(self, kind: str) -> str:
        """The media key under which `Features.features` has what is cached of a medium of this kind, alone."""
        return next(iter(self.config.feature_keys))

    def featured(self, kinds: tuple[str, ...], found: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Cached features of the media of rows that show these ``kinds``, for each of them [B, ...], a row's media one
        after the other -> by media key, as `Features.features` has them of whole rows."""
        alone = len(kinds) == 1 and kinds[0] != "frame"
        return {self.feature_key(kinds[0]): found[0] if alone else np.stack(found, axis=1)}

    def media_of(self, rows: Sequence[Given]) -> dict[str, np.ndarray]:
        """Media as users give them, one item a row -> the media arrays of a batch, pictures normalised.

        Raises UnusableImageError naming the picture, ValueError for rows with different numbers of frames.
        """
        found = [self.media(self.given(row, f"image {n}"), f"image {n}") for n, row in enumerate(rows)]
        shapes = sorted({next(iter(one.values())).shape[:-3] for one in found})
        if len(shapes) > 1:
            counts = ", ".join(str(shape[0]) if shape else "a picture" for shape in shapes)
            raise ValueError(f"all rows of a batch need the same number of frames; these have {counts}")
        return all_numbers(self.stack(found))

    def given(self, row: Given, name: str) -> list[Medium]:
        """The media of one row as users give them: a picture, or the frames of a video.

        Raises ValueError for a video without frames.
        """
        if not isinstance(row, (list, tuple)) and not (isinstance(row, np.ndarray) and row.ndim == 4):
            return [("image", row)]
        if not len(row):
            raise ValueError(f"{name} is a video without frames")
        return [("frame", frame) for frame in row]

    def encoded(
        self, rows: Sequence[Given], instructions: Sequence[str], responses: Sequence[str | None]
    ) -> list[dict[str, np.ndarray]]:
        """The token rows of users' samples: `encode`, which is told how many pictures each row shows.

        Raises ValueError naming the row.
        """
        found = []
        for n, (row, text, response) in enumerate(zip(rows, instructions, responses, strict=True)):
            try:
                kinds = tuple(kind for kind, _ in self.given(row, f"image {n}"))
                found.append(self.encode(text, response, pictures=self.shown(kinds)))
            except ValueError as error:
                raise ValueError(f"instructions[{n}]: {error}") from error
        return found

    def shown(self, kinds: tuple[str, ...]) -> Any:
        """The number of pictures that a row with media of these ``kinds`` shows, as `encode` counts them; a system of
        several modalities is told the kinds themselves."""
        return len(kinds)

    def static_kinds(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """The kinds of media that a batch has room for in each row, where a row of these ``kinds`` stands in it; a row
        without media shows a blank picture."""
        return kinds or ("image",)

    def holding(self, pictures: tuple[int, ...]) -> "BaseProcessor":
        """The same processor for batches of these numbers of pictures a row (`run.config.DataConfig.pictures`).

        Raises ValueError if a row of this system holds one picture, or video, alone.
        """
        if not pictures:
            return self
        raise ValueError("config.data.pictures: a row of this system holds one picture or video; leave it out")

    def stack(self, rows: Sequence[Mapping[str, np.ndarray]], kinds: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """The media arrays of rows -> those of a batch, which has room for ``kinds`` (`static_kinds`) at least."""
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    # Users' media and texts

    def rows(
        self,
        images: Given | Sequence[Given] | None,
        count: int | None,
        *,
        share: bool = False,
        media: Mapping[str, Any] | None = None,
    ) -> list[Given]:
        """The ``images`` of a public call -> one picture or list of frames a row, ``count`` rows if that is known.

        ``share``: a single picture is used for all rows. ``media``: see `__call__`. A video's file becomes its frames
        (`played`). Raises ValueError for counts that do not match, and for ``media`` of a system without other
        modalities; UnusableMediaError for a video that cannot be read.
        """
        if media:
            raise ValueError(f"media: this system reads pictures alone, as images; it has no {', '.join(media)}")
        if images is None:
            raise ValueError("no image is given; at least one is needed")
        single = isinstance(images, (str, os.PathLike, bytes, Image.Image)) or (
            isinstance(images, np.ndarray) and images.ndim == 3
        )
        given = cast(list[Given], [images] if single else list(cast(Sequence[Given], images)))
        distinct = {id(row): row for row in given}  # a file that is given several times stays one
        played = {key: self.played(row) for key, row in distinct.items()}
        rows = [played[id(row)] for row in given]
        if single and share and count:
            rows = rows * count
        if not rows:
            raise ValueError("no image is given; at least one is needed")
        if count is not None and len(rows) != count:
            raise ValueError(f"{len(rows)} images but {count} instructions; give one for each image")
        return rows

    def played(self, row: Given) -> Given:
        """A path to a video file, or its bytes, becomes `FRAMES` pictures at even distances (`video.middles`); anything
        else stays as it is. Raises UnusableMediaError."""
        is_file = isinstance(row, (str, os.PathLike, bytes)) and self.FRAMES and "frame" in self.KINDS
        return frames_of(row, self.FRAMES) if is_file and is_video(row) else row

    def checked(self, texts: str | Sequence[str], what: str, count: int) -> list[str]:
        """``count`` texts. Raises ValueError for another number, or naming the one that is empty."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if len(texts) != count:
            raise ValueError(f"{count} images but {len(texts)} {what}; give one for each image")
        for n, text in enumerate(texts):
            empty = what == "instructions" and self.prompts_may_be_empty
            if not isinstance(text, str) or not (text.strip() or empty):
                raise ValueError(f"{what}[{n}] is {text!r}; a text is needed")
        return texts
