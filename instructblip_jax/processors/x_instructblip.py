"""X-InstructBLIP's processor: pictures, videos, sounds and point clouds, each behind its cue, and an instruction."""

import dataclasses
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instructblip_jax.files import read_json
from instructblip_jax.pixels import BLANK, SCALE, all_numbers
from instructblip_jax.processors.audio import AudioProcessor
from instructblip_jax.processors.base import Given, Medium, Row
from instructblip_jax.processors.image import ImageProcessor
from instructblip_jax.processors.instructblip import InstructBlipProcessor
from instructblip_jax.processors.points import PointProcessor
from instructblip_jax.processors.video import frames_of, is_video, middles

CUES = {"image": " image: ", "video": " video: ", "audio": " audio: ", "pc": " 3d: "}
"""Modality -> the text before each of its media, the original's."""
FILE = (str, os.PathLike, bytes)


class Several(tuple[Medium, ...]):
    """The media of one row as a public call gives them, in reading order."""


class XInstructBlipProcessor(InstructBlipProcessor):
    """See the module. A batch's media are [B, N, ...] by modality, N the most of it that a row has, and zeros where a
    row has fewer; a modality that no row has is absent."""

    KINDS = ("image", "frame", "audio", "points")
    several = True
    sounds: AudioProcessor
    clouds: PointProcessor

    @classmethod
    def from_directory(cls, directory: Path, config: Any) -> "XInstructBlipProcessor":
        """See `ImageTextProcessor`; ``config`` is a `systems.x_instructblip.XInstructBlipConfig`."""
        processor: Any = super().from_directory(directory, config)
        settings = read_json(directory / "config.json")["modalities"]
        processor.sounds = AudioProcessor(**{**settings.get("audio", {}), "blocks": config.blocks})
        processor.clouds = PointProcessor(**settings.get("pc", {}))
        return processor

    @classmethod
    def images(cls, directory: Path, config: Any) -> ImageProcessor:
        """See `ImageTextProcessor`; those of a model without pictures are never asked for any."""
        if config.vision is not None:
            return super().images(directory, config)
        return ImageProcessor(0, 0, (), (), 0.0, Image.Resampling.BICUBIC)

    @property
    def modalities(self) -> tuple[str, ...]:
        """See `BaseProcessor`."""
        return tuple(self.config.modalities)

    # Texts

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: Any = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids, qformer_input_ids and, with a response, labels.

        ``pictures``: the kinds of the row's media in reading order, or a number of pictures. Only the Q-Formers' row is
        ever cut, as InstructBLIP's. Outer blanks of the instruction count nothing, as in the original. Raises
        ValueError for media that this model does not read.
        """
        kinds = ("image",) * pictures if isinstance(pictures, int) else pictures
        text = instruction.strip()
        row = self.continued(self._prompt(text, self.config.sequence(kinds), training), response)
        return self.read_twice(row, text, training=training)

    def _prompt(self, text: str, sequence: tuple[str, ...], training: bool) -> np.ndarray:
        """The language model's tokens of an instruction behind media of these modalities, int32 [n]."""
        form = self.config.prompt
        begin = self.tokenizer.encode("")  # the begin token alone
        pieces = [begin] if form.clean or form.prefix else []
        pieces += [self._words(form.prefix)] if form.prefix else []
        for modality in sequence:
            if modality not in self.config.modalities:
                raise ValueError(f"the row shows {modality}, and this model reads {', '.join(self.config.modalities)}")
            if form.cues:
                cue = CUES[modality]
                pieces += [self._words(cue.lstrip())] if form.clean else [begin, self._words(cue)]
            pieces.append(np.full(self.config.vectors(modality), self.config.token_id(modality), np.int32))
            pieces += [self._words(" ")] if form.add_space and not training else []
        pieces += [self._words(text + form.postfix)] if form.clean else [begin, self._words(text + form.postfix)]
        return np.concatenate(pieces).astype(np.int32)

    def _words(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text, special=False)

    def shown(self, kinds: tuple[str, ...]) -> Any:
        """See `BaseProcessor`: the kinds themselves."""
        return kinds

    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens of a sample's prompt without those of its media, or of the Q-Formers' instruction if these are more,
        and of its response."""
        return super().lengths({**row, "input_ids": row["input_ids"][~self._places(row)]})

    def _places(self, row: Row) -> np.ndarray:
        """True for tokens that hold the place of a vector, bool [n]."""
        return row["input_ids"] >= self.config.vocab_size

    def batch(
        self,
        rows: Sequence[Row],
        prompt: int,
        response: int = 0,
        kinds: tuple[str, ...] = (),
        *,
        training: bool = True,
    ) -> dict[str, np.ndarray]:
        """See `BaseProcessor`: ``prompt`` does not count the tokens of media. Rows may show others than ``kinds``."""
        sequence = self.config.sequence(kinds)
        room = sum(map(self.config.vectors, sequence))
        more = max(0, *(int(self._places(row).sum()) - room for row in rows))
        shapes = self.config.batch(len(rows), prompt, response, kinds, training=training)
        lengths = {key: shapes[key].shape[1] for key in rows[0]}
        return self.pad(rows, {key: n + (0 if key.startswith("qformer") else more) for key, n in lengths.items()})

    # Media

    def media(
        self, media: Sequence[Medium], name: str | None = None, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """The media arrays of one row, N of each modality that it shows: pixel_values uint8 [N, H, W, 3] and
        video_values [N, F, H, W, 3], each beside its scale (`ImageTextProcessor.media`); float32 audio_values
        [N, K, T, M] and point_values [N, P, 3]. Nothing is drawn but pictures and videos.

        Raises ValueError for media that this model does not read.
        """
        arrays: dict[str, np.ndarray] = {}
        by_kind = {kind: [one for one in media if one[0] == kind] for kind in self.KINDS}
        if images := by_kind["image"]:
            found = super().media(images, name, rng)
            arrays |= {key: x[None] if len(images) == 1 else x for key, x in found.items()}
        if frames := by_kind["frame"]:
            videos = len(frames) // self.config.frames
            for key, x in super().media(frames, name, rng).items():
                whole = x.reshape(videos, self.config.frames, *x.shape[1:])
                arrays[self.config.key_of["video"] + key.removeprefix(self.config.key_of["image"])] = whole
        if sounds := by_kind["audio"]:
            arrays[self.config.key_of["audio"]] = np.stack([self.sounds.values(content, name) for _, content in sounds])
        if clouds := by_kind["points"]:
            arrays[self.config.key_of["pc"]] = np.stack([self.clouds.values(content, name) for _, content in clouds])
        return arrays

    def settings(self) -> Mapping[str, Any]:
        """See `BaseProcessor`."""
        sorts = {"audio": dataclasses.asdict(self.sounds), "points": dataclasses.asdict(self.clouds)}
        return {**super().settings(), **sorts}

    def static_kinds(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """See `BaseProcessor`. A row without media may have room for a blank picture, if this model reads any."""
        return kinds if "image" in self.config.modalities else tuple(kind for kind in kinds if kind != "image")

    def stack(self, rows: Sequence[Mapping[str, np.ndarray]], kinds: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """The media arrays of rows -> those of a batch; rows with fewer media are filled up with zeros."""
        room = self.config.sequence(kinds)
        batch: dict[str, np.ndarray] = {}
        for modality, key in self.config.key_of.items():
            most = max(room.count(modality), *(len(row.get(key, ())) for row in rows))
            for name, shape in self.config.media_shapes(modality, len(rows), most).items() if most else ():
                own = [row.get(name) for row in rows]
                dtype = next((x.dtype for x in own if x is not None), shape.dtype)
                if name.endswith(SCALE) and batch[key].dtype != np.uint8:
                    continue  # these pictures are numbers already
                batch[name] = np.zeros(shape.shape, dtype)
                if name.endswith(SCALE):
                    batch[name][:] = BLANK
                for place, x in zip(batch[name], own, strict=True):
                    if x is not None:
                        place[: len(x)] = x
        return batch

    def feature_key(self, kind: str) -> str:
        """See `BaseProcessor`: a frame is a picture."""
        return next(
            self.config.key_of[name]
            for name, own in self.config.kind_of.items()
            if own == kind.replace("frame", "image")
        )

    def featured(self, kinds: tuple[str, ...], found: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """See `BaseProcessor`: the features of a medium alone are [B, 1, ...]."""
        features = {}
        for modality, kind in self.config.kind_of.items():
            if own := [x for x, other in zip(found, kinds, strict=True) if other == kind]:
                joined = np.concatenate(own, axis=1)
                videos = (joined.shape[0], -1, self.config.frames, *joined.shape[2:])
                features[self.config.key_of[modality]] = joined.reshape(videos) if modality == "video" else joined
        return features

    def media_of(self, rows: Sequence[Given]) -> dict[str, np.ndarray]:
        """See `BaseProcessor`; rows may show different media."""
        found = [self.media(self.given(row, f"row {n}"), f"row {n}") for n, row in enumerate(rows)]
        return all_numbers(self.stack(found))

    # Users' media

    def given(self, row: Given, name: str) -> list[Medium]:
        """The media of one row: what `rows` found, or else pictures."""
        if isinstance(row, Several):
            return list(row)
        if isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 4):
            return [("image", picture) for picture in row]
        return [("image", row)]

    def rows(
        self,
        images: Given | Sequence[Given] | None,
        count: int | None,
        *,
        share: bool = False,
        media: Mapping[str, Any] | None = None,
    ) -> list[Given]:
        """See `BaseProcessor`: each row's media, pictures first, then the modalities in the order of ``media``.

        An entry is None where a row has none of a modality, or a list for several. A file that is given alone is for
        all rows. A video is a file, its bytes, a list of pictures or uint8 [F, H, W, 3], of which as many as the model
        reads are taken, from the middles of as many equal parts; a clip is a file, its bytes or (samples, rate); a
        cloud a file, its bytes or points [P, 3].
        """
        given = ({} if images is None else {"image": images}) | dict(media or {})
        if unknown := [name for name in given if name not in self.config.modalities]:
            raise ValueError(f"media: this model reads {', '.join(self.config.modalities)}, and has no {unknown[0]}")
        columns = {name: [x] if _alone(name, x) else list(x) for name, x in given.items()}
        if not any(columns.values()):
            raise ValueError("no medium is given; at least one is needed")
        rows = count or max(map(len, columns.values()))
        for name, entries in columns.items():
            if len(entries) == 1 and share and _alone(name, given[name]):
                columns[name] = entries * rows
            elif len(entries) != rows:
                raise ValueError(f"media: {name} has {len(entries)} entries for {rows} rows; give one for each")
        known: dict[tuple[int, ...], Several] = {}  # so that media which rows share are encoded once
        for row in zip(*columns.values(), strict=True):
            if tuple(map(id, row)) not in known:
                found = (one for name, entry in zip(columns, row, strict=True) for one in self._media(name, entry))
                known[tuple(map(id, row))] = Several(found)
        return [known[tuple(map(id, row))] for row in zip(*columns.values(), strict=True)]  # type: ignore[misc]

    def _media(self, modality: str, entry: Any) -> Iterator[Medium]:
        """The media of a row's entry for a modality."""
        if entry is None:
            return
        for one in entry if _several(modality, entry) else [entry]:
            if modality != "video":
                yield self.config.kind_of[modality], one
                continue
            if isinstance(one, FILE):
                yield from (("frame", frame) for frame in frames_of(one, self.config.frames))
                continue
            if not len(one):
                raise ValueError("media: a video is without frames")
            yield from (("frame", one[place]) for place in middles(len(one), self.config.frames))


def _alone(modality: str, entries: Any) -> bool:
    """True if a public call gives a single medium instead of an entry a row."""
    if modality == "audio" and isinstance(entries, tuple) and isinstance(entries[-1], numbers.Real):
        return True  # (samples, rate)
    axes = {"video": 4, "image": 3}.get(modality, 2)
    return not isinstance(entries, (list, tuple)) and getattr(entries, "ndim", axes) == axes


def _several(modality: str, entry: Any) -> bool:
    """True if a row's entry is a list of media, rather than one."""
    if modality == "video":  # a video is a list itself
        first = entry[0] if isinstance(entry, (list, tuple)) and entry else None
        film = isinstance(first, FILE) and is_video(first)
        return film or isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 4
    return isinstance(entry, list) or (modality == "image" and isinstance(entry, tuple))
