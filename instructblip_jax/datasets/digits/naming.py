"""Made-up names for digits or colours: tasks that can be solved only with the examples before a question.

As in Frozen's fast binding (arXiv 2106.13884, section 4.2), the names are drawn anew for each record, so that only its
own examples define their meaning.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.datasets.digits import scene as scenes

NAMES = (
    *("dax", "blicket", "wug", "fep", "toma", "zib", "gorp", "pilk", "modi", "lorp", "tuli", "vash"),
    *("kiva", "nerp", "sabo", "yima", "quob", "hesk", "jalo", "crim", "dwen", "plex", "brop", "thrim"),
    *("rulo", "zemp", "fani", "gluk", "osk", "wem", "tarn", "bivo"),
)
"""A language model of this world has a token for each. The last eight, `UNHEARD`, follow no training image; texts
without images have all of them, because a model cannot generate a word that it never read."""
UNHEARD = NAMES[-8:]
MARK = "<image>"
SINGLE, DIGITS, COLOURS = "single", "naming_digits", "naming_colours"
TEXTS, DOCUMENTS = "naming_texts", "naming_documents"
SIZES = {SINGLE: 12_000, DIGITS: 6_000, COLOURS: 3_000, TEXTS: 30_000, DOCUMENTS: 2_000}
"""Set -> number of training records: images of a single digit with a caption in words; questions for new names of
digits, and of colours; and documents in which names are repeated, after words and after images."""
MOST_WAYS, MOST_EXAMPLES = 3, 4
"""Numbers of different names, and of examples, in a training question."""
LONGEST, DOCUMENT_WAYS = 10, 4
"""Number of names in a document, and maximum number of different ones."""
SHOTS = 8
"""Number of examples in a record for evaluation, with two names."""


def cell(colour: str, digit: int, rng: np.random.Generator) -> scenes.Cell:
    """A digit at any position of a 2x2 grid."""
    row, column = scenes.ROWS[2][int(rng.integers(2))], scenes.COLUMNS[2][int(rng.integers(2))]
    return scenes.Cell(row, column, colour, digit)


def picture(shown: scenes.Cell, split: str, rng: np.random.Generator) -> Medium:
    """The image of a single digit."""
    return Medium(IMAGE, scenes.encode(scenes.render(scenes.Scene(2, 2, (shown,)), split, rng)))


def make(name: str, split: str, start: int, stop: int) -> Iterator[Record]:
    """The records ``start`` up to but not including ``stop`` of a split of one of these sets; see `records.make`."""
    for number in range(start, stop):
        uid = f"{name}/{split}/{number}"
        rng = np.random.default_rng(zlib.crc32(uid.encode()))
        if name == SINGLE:
            yield captioned(uid, split, rng)
        elif name in (TEXTS, DOCUMENTS):
            yield written(uid, name, split, rng)
        else:
            yield asked(uid, name, split, rng)


def captioned(uid: str, split: str, rng: np.random.Generator) -> Record:
    """A single digit with its colour and digit in words."""
    shown = cell(str(rng.choice(list(scenes.COLOURS))), int(rng.integers(10)), rng)
    return Record(uid, SINGLE, split, "caption", (picture(shown, split, rng),), {}, (shown.name,), instruction="")


@dataclasses.dataclass(frozen=True)
class Named:
    """Examples with new names: ``cells`` that differ only in their digit or their colour, their ``names``, and the
    ``words`` for the difference. The first ones have different names."""

    cells: tuple[scenes.Cell, ...]
    names: tuple[str, ...]
    words: tuple[str, ...]


def named(
    colours: bool, ways: int, count: int, heard: Sequence[str], rng: np.random.Generator, *, rounds: bool
) -> Named:
    """``count`` examples of different digits, or ``colours``, with names among ``heard``; in ``rounds`` over all names,
    or only the first round so."""
    called = [heard[n] for n in rng.choice(len(heard), ways, replace=False)]
    words = rng.choice(list(scenes.COLOURS) if colours else [str(n) for n in range(10)], ways, replace=False)
    colour, digit = str(rng.choice(list(scenes.COLOURS))), int(rng.integers(10))
    order = [int(n) for _ in range(-(-count // ways)) for n in rng.permutation(ways)][:count]
    if not rounds:
        order[ways:] = rng.integers(ways, size=count - ways).tolist()
    said = [str(words[n]) for n in order]
    cells = [cell(word, digit, rng) if colours else cell(colour, int(word), rng) for word in said]
    return Named(tuple(cells), tuple(called[n] for n in order), tuple(said))


def _heard(split: str) -> Sequence[str]:
    """The names that follow images in a split."""
    return NAMES[: -len(UNHEARD)] if split == "train" else UNHEARD


def asked(uid: str, name: str, split: str, rng: np.random.Generator) -> Record:
    """A question after examples. Each name means a digit (or a colour); all images of a record are equal in the other
    property, so that one example of each name is sufficient."""
    training = split == "train"
    ways = int(rng.integers(2, MOST_WAYS + 1)) if training else 2
    count = int(rng.integers(ways, MOST_EXAMPLES + 1)) if training else SHOTS
    shown = named(name == COLOURS, ways, count, _heard(split), rng, rounds=True)
    question = int(rng.integers(count))
    last = cell(shown.cells[question].colour, shown.cells[question].digit, rng)
    media = tuple(picture(one, split, rng) for one in (*shown.cells, last))
    parts = [part for pair in enumerate(shown.names) for part in pair] + [count]
    return Record(
        uid,
        name,
        split,
        "vqa",
        media,
        {},
        (shown.names[question],),
        instruction="".join(part if isinstance(part, str) else MARK for part in parts),
        meta={"shown": [one.name for one in (*shown.cells, last)]},
        parts=tuple(parts),
    )


def written(uid: str, name: str, split: str, rng: np.random.Generator) -> Record:
    """A document that repeats names, each after the word for a thing, or after its image."""
    ways = int(rng.integers(2, DOCUMENT_WAYS + 1))
    shown = named(bool(rng.integers(2)), ways, LONGEST, NAMES if name == TEXTS else _heard(split), rng, rounds=False)
    if name == TEXTS:
        text = " ".join(f"{word} {called}" for word, called in zip(shown.words, shown.names, strict=True))
        return Record(uid, name, split, "document", (), {}, (), parts=(text,))
    media = tuple(picture(one, split, rng) for one in shown.cells)
    parts = tuple(part for pair in enumerate(shown.names) for part in pair)
    return Record(uid, name, split, "document", media, {}, (), parts=parts)
