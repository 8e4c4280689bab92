"""The captioner and the filter: an image is decoded once, and encoded once by each of them."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from instructblip_jax.capfilt.parts import SYNTHETIC, WEB, Judged, Outcome, Part
from instructblip_jax.comparing import probability, text_batch, text_length, text_rows
from instructblip_jax.data.record import IMAGE
from instructblip_jax.datasets.draft import Draft
from instructblip_jax.datasets.media.load import picture
from instructblip_jax.decoding import protocol
from instructblip_jax.decoding.text import LENGTH_STEP, generate_ids
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.processors.content import UnusableMediaError
from instructblip_jax.processors.pairs import PairProcessor
from instructblip_jax.systems.protocol import Media

Text = tuple[str, str]
"""The source of a text, and the text."""
T = TypeVar("T")


class Matches(Protocol):
    """`instructblip_jax.model.Model`, for a system that compares."""

    def encode(self, batch: Mapping[str, Any]) -> Media: ...

    def match(self, media: Media, batch: Mapping[str, Any]) -> np.ndarray: ...


class Decoded(NamedTuple):
    """A row's image for the captioner and the filter; or a blank one, with the reason why it cannot be read."""

    written_about: Mapping[str, np.ndarray]
    matched: Mapping[str, np.ndarray]
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Captioner:
    """A system that generates ``captions`` captions per image, by `generate_ids` with ``options``."""

    model: protocol.Model
    processor: BaseProcessor
    prompt: str
    captions: int
    options: Mapping[str, Any]

    @functools.cached_property
    def _row(self) -> Mapping[str, np.ndarray]:
        return self.processor.encode(self.prompt)

    def write(self, arrays: Mapping[str, np.ndarray], seeds: np.ndarray) -> list[list[str]]:
        """The distinct captions of each of B images; ``seeds`` uint32 [B] determine the draws."""
        length = -(-self.processor.lengths(self._row)[0] // LENGTH_STEP) * LENGTH_STEP
        prompts = self.processor.batch([self._row] * len(seeds), length, training=False)
        draws = {"do_sample": True, "num_return_sequences": self.captions, **self.options}
        ids = generate_ids(self.model, prompts, media=self.model.encode(arrays), seed=seeds, **draws)
        texts = [text.strip() for text in self.processor.decode(ids)]
        rows = [texts[n : n + self.captions] for n in range(0, len(texts), self.captions)]
        return [[text for text in dict.fromkeys(row) if text] for row in rows]


@dataclasses.dataclass(frozen=True)
class Filter:
    """A system that compares."""

    model: Matches
    processor: PairProcessor

    def probabilities(self, arrays: Mapping[str, np.ndarray], rows: Sequence[Sequence[str]]) -> list[list[float]]:
        """The probability that each image matches each of its texts. Texts are cleaned; an empty one has probability
        0."""
        media, found = self.model.encode(arrays), [list[float]() for _ in rows]
        for number in range(max(map(len, rows))):
            # The texts with this index of all rows: every call has one text per image.
            texts = [row[number] if number < len(row) else "" for row in rows]
            tokens = text_rows(self.processor, texts, clean=True)
            batch = text_batch(self.processor, tokens, text_length(self.processor, tokens))
            matches = probability(self.model.match(media, batch)).tolist()
            for own, row, text, match in zip(found, rows, texts, matches, strict=True):
                if number < len(row):
                    own.append(match if self.processor.clean(text) else 0.0)
        return found


@dataclasses.dataclass(frozen=True)
class Models:
    """Both, for ``batch_size`` images at a time."""

    captioner: Captioner
    filter: Filter
    batch_size: int
    seed: int

    @functools.cached_property
    def _alike(self) -> bool:
        """True if both have the same arrays for an image."""
        captioner, matcher = self.captioner.processor, self.filter.processor
        same = captioner.config.media_keys == matcher.config.media_keys
        return same and captioner.settings() == matcher.settings()

    def outcomes(self, parts: Iterable[Part]) -> Iterator[tuple[Part, list[Outcome]]]:
        """The outcomes of each part's drafts; images of the next batch are decoded while one is computed."""
        done: list[Outcome] = []
        with ThreadPoolExecutor() as pool:
            batches = ((part, chunk) for part in parts for chunk in _chunks(part.drafts, self.batch_size))
            for (part, drafts), decoded in _ahead(batches, lambda one: [pool.submit(self._decoded, d) for d in one[1]]):
                done += self._judged(drafts, decoded)
                if len(done) == len(part.drafts):
                    yield part, done
                    done = []

    def _decoded(self, draft: Draft) -> Decoded:
        captioner, matcher = self.captioner.processor, self.filter.processor
        try:
            shown = [(IMAGE, picture(draft.media[0]))]
            own = captioner.media(shown, draft.where)
            return Decoded(own, own if self._alike else matcher.media(shown, draft.where))
        except UnusableMediaError as error:
            return Decoded(captioner.media(()), matcher.media(()), error.reason, error.detail)

    def _judged(self, drafts: Sequence[Draft], decoded: Sequence[Decoded]) -> list[Outcome]:
        """The outcomes of a batch, which is padded with its first row; the padding is dropped."""
        full = [*decoded, *[decoded[0]] * (self.batch_size - len(decoded))]
        uids = [draft.record.uid for draft in drafts]
        seeds = [_seed(self.seed, uid) for uid in uids] + [0] * (len(full) - len(uids))
        written = self.captioner.write(
            self.captioner.processor.stack([row.written_about for row in full]), np.array(seeds, np.uint32)
        )
        texts = [_texts(draft, own) for draft, own in zip(drafts, written, strict=False)]
        texts += [texts[0]] * (len(full) - len(texts))
        matched = self.filter.processor.stack([row.matched for row in full])
        scores = self.filter.probabilities(matched, [[text for _, text in row] for row in texts])
        return [
            Outcome(reason=row.reason, detail=row.detail)
            if row.reason
            else Outcome(tuple(Judged(*text, score) for text, score in zip(own, found, strict=True)))
            for row, own, found in zip(decoded, texts, scores, strict=False)
        ]


def _texts(draft: Draft, written: Sequence[str]) -> list[Text]:
    """A row's texts, the web's before the captioner's; a caption equal to a web text counts as the web's."""
    web = list(dict.fromkeys(draft.record.answers))
    return [(WEB, text) for text in web] + [(SYNTHETIC, text) for text in written if text not in web]


def _seed(seed: int, uid: str) -> int:
    """32-bit seed of a row's captions, independent of host and batch."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{uid}".encode(), digest_size=4).digest(), "little")


def _chunks(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (rows[n : n + size] for n in range(0, len(rows), size))


def _ahead(items: Iterable[T], begin: Any) -> Iterator[tuple[T, list[Any]]]:
    """Each item with the results of the futures from ``begin``, which run while the previous item is in use."""
    before: tuple[T, list[Future]] | None = None
    for item in items:
        now = item, begin(item)
        if before is not None:
            yield before[0], [future.result() for future in before[1]]
        before = now
    if before is not None:
        yield before[0], [future.result() for future in before[1]]
