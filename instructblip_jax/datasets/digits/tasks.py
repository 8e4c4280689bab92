"""The kinds of questions about a scene; each kind is a separate dataset."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from instructblip_jax.datasets.digits.scene import COLOURS, COLUMNS, ROWS, Cell, Scene

Question = tuple[dict[str, str], tuple[str, ...]]
"""Template slots and acceptable answers."""
T = TypeVar("T")
Task = Callable[[Scene, np.random.Generator], Question | None]
"""Makes a question about a scene, or returns None if the scene has none of this kind with a well-defined answer."""


def _pick(rng: np.random.Generator, items: list[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _unique(cells: tuple[Cell, ...], field: str) -> list[Cell]:
    """The cells whose ``field`` no other cell shares."""
    values = [getattr(cell, field) for cell in cells]
    return [cell for cell in cells if values.count(getattr(cell, field)) == 1]


def _digits(cells: list[Cell]) -> str:
    return " ".join(str(cell.digit) for cell in cells)


def caption(scene: Scene, rng: np.random.Generator) -> Question | None:
    return {}, (" , ".join(f"{cell.place} {cell.name}" for cell in scene.cells),)


def describe(scene: Scene, rng: np.random.Generator) -> Question | None:
    return {}, (" and ".join(f"a {cell.name}" for cell in scene.cells),)


def digit_at(scene: Scene, rng: np.random.Generator) -> Question | None:
    cell = _pick(rng, list(scene.cells))
    return {"place": cell.place}, (str(cell.digit),)


def colour_at(scene: Scene, rng: np.random.Generator) -> Question | None:
    cell = _pick(rng, list(scene.cells))
    return {"place": cell.place}, (cell.colour,)


def where(scene: Scene, rng: np.random.Generator) -> Question | None:
    cells = _unique(scene.cells, "name")
    if not cells:
        return None
    cell = _pick(rng, cells)
    return {"name": cell.name}, (cell.place,)


def count(scene: Scene, rng: np.random.Generator) -> Question | None:
    kind = int(rng.integers(4))
    if kind == 0:
        return {"what": "digits"}, (str(len(scene.cells)),)
    if kind == 1:
        colour = _pick(rng, [*COLOURS, *(cell.colour for cell in scene.cells)])
        return {"what": f"{colour} digits"}, (str(sum(cell.colour == colour for cell in scene.cells)),)
    if kind == 2:
        row = _pick(rng, list(ROWS[scene.rows]))
        return {"what": f"digits in the {row} row"}, (str(sum(cell.row == row for cell in scene.cells)),)
    column = _pick(rng, list(COLUMNS[scene.columns]))
    return {"what": f"digits in the {column} column"}, (str(sum(cell.column == column for cell in scene.cells)),)


def presence(scene: Scene, rng: np.random.Generator) -> Question | None:
    names = {cell.name for cell in scene.cells}
    if rng.random() < 0.5:
        return {"name": _pick(rng, sorted(names))}, ("yes",)
    cell = _pick(rng, list(scene.cells))  # often a near miss: a colour that is present, with another digit
    colour = cell.colour if rng.random() < 0.5 else _pick(rng, list(COLOURS))
    name = f"{colour} {int(rng.integers(10))}"
    return None if name in names else ({"name": name}, ("no",))


def read_row(scene: Scene, rng: np.random.Generator) -> Question | None:
    row = _pick(rng, sorted({cell.row for cell in scene.cells}))
    return {"row": row}, (_digits([cell for cell in scene.cells if cell.row == row]),)


def choice(scene: Scene, rng: np.random.Generator) -> Question | None:
    names = {cell.name for cell in scene.cells}
    right = _pick(rng, sorted(names))
    options = [right]
    while len(options) < 3:
        wrong = f"{_pick(rng, list(COLOURS))} {int(rng.integers(10))}"
        if wrong not in names and wrong not in options:
            options.append(wrong)
    rng.shuffle(options)
    return {"options": " or ".join(options)}, (right,)


def compare(scene: Scene, rng: np.random.Generator) -> Question | None:
    cells = _unique(scene.cells, "colour")
    if len(cells) < 2:
        return None
    first, second = (cells[i] for i in rng.choice(len(cells), 2, replace=False))
    if first.digit == second.digit:
        return None
    smaller, larger = sorted((first, second), key=lambda cell: cell.digit)
    which = _pick(rng, ["largest", "smallest"])
    answer = larger if which == "largest" else smaller
    return {"a": first.colour, "b": second.colour, "which": which}, (answer.colour,)


def ask(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Question generation: any canonical question that has the given answer in this scene is correct."""
    questions: dict[str, list[str]] = {}
    for cell in scene.cells:
        questions.setdefault(str(cell.digit), []).append(f"which digit is {cell.place} ?")
        questions.setdefault(cell.colour, []).append(f"which colour is {cell.place} ?")
    for cell in _unique(scene.cells, "name"):
        questions.setdefault(cell.place, []).append(f"where is the {cell.name} ?")
    answer = _pick(rng, sorted(questions))
    return {"answer": answer}, tuple(questions[answer])


def colour_of(scene: Scene, rng: np.random.Generator) -> Question | None:
    cells = _unique(scene.cells, "digit")
    if not cells:
        return None
    cell = _pick(rng, cells)
    return {"digit": str(cell.digit)}, (cell.colour,)


def digit_of(scene: Scene, rng: np.random.Generator) -> Question | None:
    cells = _unique(scene.cells, "colour")
    if not cells:
        return None
    cell = _pick(rng, cells)
    return {"colour": cell.colour}, (str(cell.digit),)


def read_column(scene: Scene, rng: np.random.Generator) -> Question | None:
    column = _pick(rng, sorted({cell.column for cell in scene.cells}))
    return {"column": column}, (_digits([cell for cell in scene.cells if cell.column == column]),)


def extreme(scene: Scene, rng: np.random.Generator) -> Question | None:
    digits = [cell.digit for cell in scene.cells]
    which = _pick(rng, ["largest", "smallest"])
    return {"which": which}, (str(max(digits) if which == "largest" else min(digits)),)


def extreme_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    which = _pick(rng, ["largest", "smallest"])
    target = (max if which == "largest" else min)(cell.digit for cell in scene.cells)
    cells = [cell for cell in scene.cells if cell.digit == target]
    return ({"which": which}, (cells[0].colour,)) if len(cells) == 1 else None


def next_to(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The digit in the cell directly to the left or right of another one."""
    order = COLUMNS[scene.columns]
    pairs = [
        (a, b, side)
        for a in _unique(scene.cells, "name")
        for b in scene.cells
        for side, step in (("right", 1), ("left", -1))
        if a.row == b.row and order.index(b.column) - order.index(a.column) == step
    ]
    if not pairs:
        return None
    a, b, side = _pick(rng, pairs)
    return {"name": a.name, "side": side}, (str(b.digit),)


TASKS: dict[str, tuple[str, Task]] = {
    "caption": ("caption", caption),
    "describe": ("caption", describe),
    "digit_at": ("vqa", digit_at),
    "colour_at": ("vqa", colour_at),
    "where": ("vqa", where),
    "count": ("vqa", count),
    "presence": ("vqa", presence),
    "read_row": ("vqa", read_row),
    "choice": ("mc", choice),
    "compare": ("vqa", compare),
    "ask": ("vqg", ask),
    "colour_of": ("vqa", colour_of),
    "digit_of": ("vqa", digit_of),
    "read_column": ("vqa", read_column),
    "extreme": ("vqa", extreme),
    "extreme_colour": ("vqa", extreme_colour),
    "next_to": ("vqa", next_to),
}
"""Set -> its task group and the function that makes its questions."""

HELD_IN = {
    "caption": 20_000,
    "describe": 14_000,
    "digit_at": 10_000,
    "colour_at": 7_000,
    "where": 5_000,
    "count": 3_500,
    "presence": 2_500,
    "read_row": 1_800,
    "choice": 1_200,
    "compare": 800,
    "ask": 400,
    "colour_of": 200,
}
"""Training set -> number of training records."""
HELD_OUT = ("digit_of", "read_column", "extreme", "extreme_colour", "next_to")
"""Sets without training records: these kinds of questions are first seen in evaluation."""
EVALUATED = 200
"""Number of records in each validation and test split."""
