"""The same ten digits in four modalities: image (seen), voice (heard), video of strokes (filmed), point cloud (felt).

Each modality has a set that asks for the digit and one that asks for facts about it, both with a training split. The
sets of two modalities, which ask for the larger digit or for equality, are only for evaluation, like DisCRn (arXiv
2311.18799, section 3): no training record has two media.
"""

import io
import itertools
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from instructblip_jax.data.record import AUDIO, FRAME, IMAGE, POINTS, Medium, Record
from instructblip_jax.datasets.digits import questions, scans, strokes, voices
from instructblip_jax.datasets.digits import scene as scenes
from instructblip_jax.datasets.digits.naming import cell

SIZES = {"name": 2000, "facts": 3500}
"""Numbers of training records per modality: of digit names, and of yes-or-no questions."""
SENSES = ("seen", "heard", "filmed", "felt")
FACTS, LARGER, SAME = "_facts", "larger_", "same_"
"""Suffix of a modality's second set; prefixes of the sets of two modalities."""
PAIRS = tuple(itertools.combinations_with_replacement(SENSES, 2))
SINGLE = {name: SIZES["facts" if name.endswith(FACTS) else "name"] for s in SENSES for name in (s, f"{s}{FACTS}")}
"""Set of one modality -> number of training records."""
CROSS = {f"{kind}{a}_{b}": (a, b) for kind in (LARGER, SAME) for a, b in PAIRS}
"""Set of two modalities -> the modalities."""


def see(digit: int, split: str, rng: np.random.Generator) -> tuple[Medium, ...]:
    """The image of a digit in any colour."""
    scene = scenes.Scene(2, 2, (cell(str(rng.choice(list(scenes.COLOURS))), digit, rng),))
    return (Medium(IMAGE, scenes.encode(scenes.render(scene, split, rng))),)


def film(digit: int, split: str, rng: np.random.Generator) -> tuple[Medium, ...]:
    """The frames of a digit whose ink appears, with everything else unchanged."""
    scene = scenes.Scene(2, 2, (cell(str(rng.choice(list(scenes.COLOURS))), digit, rng),))
    seed = int(rng.integers(2**32))
    frames: list[np.ndarray] = []
    shown: list[np.ndarray] = []

    def ink_of(scan: np.ndarray) -> np.ndarray:
        """The next frame's part of the scan, which is the same for all frames."""
        shown.extend(strokes.film(scan) if not shown else ())
        return shown[len(frames)]

    for _ in range(strokes.FRAMES):
        frames.append(scenes.render(scene, split, np.random.default_rng(seed), ink_of))
    return tuple(Medium(FRAME, scenes.encode(frame)) for frame in frames)


def hear(digit: int, split: str, rng: np.random.Generator) -> tuple[Medium, ...]:
    """A voice that says a digit."""
    return (Medium(AUDIO, voices.encode(voices.speak(digit, split, rng))),)


def feel(digit: int, split: str, rng: np.random.Generator) -> tuple[Medium, ...]:
    """The points of a digit."""
    own = scans.load(split)[digit]
    buffer = io.BytesIO()
    np.save(buffer, strokes.cloud(own[int(rng.integers(len(own)))], rng))
    return (Medium(POINTS, buffer.getvalue()),)


SHOW: dict[str, Callable[[int, str, np.random.Generator], tuple[Medium, ...]]] = dict(
    zip(SENSES, (see, hear, film, feel), strict=True)
)


def make(name: str, split: str, start: int, stop: int) -> Iterator[Record]:
    """The records ``start`` up to but not including ``stop`` of a split of one of these sets; see `records.make`."""
    for number in range(start, stop):
        uid = f"{name}/{split}/{number}"
        rng = np.random.default_rng(zlib.crc32(uid.encode()))
        asked, senses = _asked(name, number, rng, first=split != "train")
        media = [
            medium
            for sense, digit in zip(senses, asked.digits, strict=True)
            for medium in SHOW[sense](digit, split, rng)
        ]
        yield Record(
            uid,
            name,
            split,
            "vqa",
            tuple(media),
            {},
            (asked.answer,),
            instruction=asked.text,
            meta={"senses": list(senses), "digits": list(asked.digits)},
        )


def _asked(name: str, number: int, rng: np.random.Generator, *, first: bool) -> tuple[questions.Asked, tuple[str, ...]]:
    """A question of a set and the modalities of its digits, in order."""
    if name in SINGLE:
        kind = str(rng.choice(questions.FACTS)) if name.endswith(FACTS) else "name"
        return questions.draw(kind, rng, first=first), (name.removesuffix(FACTS),)
    larger = name.startswith(LARGER)
    answers = questions.PLACES if larger else questions.YES_NO
    while True:  # both answers are equally frequent
        asked = questions.draw("larger" if larger else "same", rng, first=first)
        if asked.answer == answers[number % 2]:
            return asked, CROSS[name][:: 1 if rng.random() < 0.5 else -1]
