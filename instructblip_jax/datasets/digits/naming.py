"""Made-up names for what single digits show: tasks that only the examples before a question can solve.

As in Frozen's fast binding (arXiv 2106.13884, section 4.2), the names are drawn anew for each record: nothing but its
own examples says what is called what.
"""

import zlib
from collections.abc import Iterator

import numpy as np

from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.datasets.digits import scene as scenes

NAMES = (
    *("dax", "blicket", "wug", "fep", "toma", "zib", "gorp", "pilk", "modi", "lorp", "tuli", "vash"),
    *("kiva", "nerp", "sabo", "yima", "quob", "hesk", "jalo", "crim", "dwen", "plex", "brop", "thrim"),
    *("rulo", "zemp", "fani", "gluk", "osk", "wem", "tarn", "bivo"),
)
"""A language model of this world has a token for each. The last eight stand in no training record: `UNHEARD`."""
UNHEARD = NAMES[-8:]
SAID = "this is a"
"""What stands between a picture and its name."""
MARK = "<image>"
SINGLE, DIGITS, COLOURS = "single", "naming_digits", "naming_colours"
SIZES = {SINGLE: 12_000, DIGITS: 6_000, COLOURS: 3_000}
"""Set -> number of training records: pictures of a single digit with a caption in words; digits, and colours, that have
new names."""
MOST_WAYS, MOST_EXAMPLES = 3, 4
"""Of a training record: different names, and examples."""
SHOTS = 8
"""Examples of a record for evaluation, of two names."""


def cell(colour: int, digit: int, rng: np.random.Generator) -> scenes.Cell:
    """A digit at any place of a grid of 2x2."""
    row, column = scenes.ROWS[2][int(rng.integers(2))], scenes.COLUMNS[2][int(rng.integers(2))]
    return scenes.Cell(row, column, tuple(scenes.COLOURS)[colour], digit)


def picture(shown: scenes.Cell, split: str, rng: np.random.Generator) -> Medium:
    """The picture of a single digit."""
    return Medium(IMAGE, scenes.encode(scenes.render(scenes.Scene(2, 2, (shown,)), split, rng)))


def make(name: str, split: str, start: int, stop: int) -> Iterator[Record]:
    """The records ``start`` up to but not including ``stop`` of a split of one of these sets; see `records.make`."""
    for number in range(start, stop):
        uid = f"{name}/{split}/{number}"
        rng = np.random.default_rng(zlib.crc32(uid.encode()))
        yield captioned(uid, split, rng) if name == SINGLE else named(uid, name, split, rng)


def captioned(uid: str, split: str, rng: np.random.Generator) -> Record:
    """A single digit with its colour and digit in words."""
    shown = cell(int(rng.integers(len(scenes.COLOURS))), int(rng.integers(10)), rng)
    return Record(uid, SINGLE, split, "caption", (picture(shown, split, rng),), {}, (shown.name,), instruction="")


def named(uid: str, name: str, split: str, rng: np.random.Generator) -> Record:
    """A question after examples. Each name stands for a digit (or a colour); all pictures of a record are alike in the
    other respect, so that one example of each name is enough. The examples come in rounds of all names."""
    training = split == "train"
    ways = int(rng.integers(2, MOST_WAYS + 1)) if training else 2
    count = int(rng.integers(ways, MOST_EXAMPLES + 1)) if training else SHOTS
    heard = NAMES[: -len(UNHEARD)] if training else UNHEARD
    called = [heard[n] for n in rng.choice(len(heard), ways, replace=False)]
    colours, digits = len(scenes.COLOURS), 10
    things = rng.choice(digits if name == DIGITS else colours, ways, replace=False)
    other = int(rng.integers(colours if name == DIGITS else digits))
    order = [int(n) for _ in range(-(-count // ways)) for n in rng.permutation(ways)][:count]
    asked = int(rng.choice(order))
    cells, media = [], []
    parts: list[str | int] = []
    for way in (*order, asked):
        thing = int(things[way])
        cells.append(cell(other, thing, rng) if name == DIGITS else cell(thing, other, rng))
        media.append(picture(cells[-1], split, rng))
        parts += [len(media) - 1, f"{SAID} {called[way]}"]
    parts[-1] = SAID
    text = "".join(part if isinstance(part, str) else MARK for part in parts)
    meta = {"shown": [shown.name for shown in cells]}
    answers = (called[asked],)
    return Record(uid, name, split, "vqa", tuple(media), {}, answers, instruction=text, meta=meta, parts=tuple(parts))
