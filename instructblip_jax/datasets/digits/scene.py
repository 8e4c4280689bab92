"""Random scenes: grids of tinted, scaled, rotated and shifted scans on a noisy background."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from instructblip_jax.datasets.digits import scans

SIZE = 48  # pixels along a side
COLOURS = {
    "red": (235, 50, 50),
    "green": (50, 205, 70),
    "blue": (70, 110, 255),
    "yellow": (240, 225, 50),
    "purple": (190, 60, 225),
    "white": (240, 240, 240),
}
ROWS = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
COLUMNS = {2: ("left", "right"), 3: ("left", "center", "right")}
MOST = 4  # digits in a scene


@dataclasses.dataclass(frozen=True)
class Cell:
    """One digit of a scene and its position."""

    row: str
    column: str
    colour: str
    digit: int

    @property
    def place(self) -> str:
        """The position as one word, such as "top-left"; the words are the same for every grid shape."""
        return f"{self.row}-{self.column}"

    @property
    def name(self) -> str:
        """Colour and digit, such as "red 3"."""
        return f"{self.colour} {self.digit}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """A grid of 2x2 to 3x3 cells, 2 to 4 of them filled; ``cells`` are the filled ones in reading order."""

    rows: int
    columns: int
    cells: tuple[Cell, ...]

    def text(self, order: np.ndarray | None = None) -> str:
        """The scene in words, three per digit, in reading order or in the ``order`` of indices into ``cells``."""
        cells = self.cells if order is None else [self.cells[i] for i in order]
        return " ".join(f"{cell.place} {cell.name}" for cell in cells)


def draw(rng: np.random.Generator) -> Scene:
    """A random scene."""
    rows, columns = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    count = int(rng.integers(2, min(MOST, rows * columns) + 1))
    filled = np.sort(rng.choice(rows * columns, count, replace=False))
    colours = tuple(COLOURS)
    cells = tuple(
        Cell(
            ROWS[rows][i // columns],
            COLUMNS[columns][i % columns],
            colours[int(rng.integers(len(colours)))],
            int(rng.integers(10)),
        )
        for i in filled
    )
    return Scene(rows, columns, cells)


def render(
    scene: Scene,
    split: str,
    rng: np.random.Generator,
    ink_of: Callable[[np.ndarray], np.ndarray] = lambda scan: scan,
) -> np.ndarray:
    """The image, uint8 [48, 48, 3], drawn only with the handwriting of ``split``.

    ``ink_of``: the part of a scan uint8 [8, 8] that is drawn, by default all of it.
    """
    by_digit = scans.load(split)
    ground = rng.uniform(20, 70, 3)
    noise = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
    picture = np.clip(ground.astype(np.float32) + 7 * noise, 0, 255)
    height, width = SIZE // scene.rows, SIZE // scene.columns
    for cell in scene.cells:
        own = by_digit[cell.digit]
        size = round(min(height, width) * rng.uniform(0.8, 1.0))
        scan = Image.fromarray(ink_of(own[rng.integers(len(own))]))
        scan = scan.resize((size, size), Image.Resampling.BICUBIC).rotate(
            rng.uniform(-10, 10), Image.Resampling.BILINEAR
        )
        ink = np.asarray(scan, np.float32)[..., None] / 255  # [size, size, 1]
        top = ROWS[scene.rows].index(cell.row) * height + int(rng.integers(0, height - size + 1))
        left = COLUMNS[scene.columns].index(cell.column) * width + int(rng.integers(0, width - size + 1))
        tint = np.clip(np.array(COLOURS[cell.colour]) + rng.normal(0, 10, 3), 0, 255)
        patch = picture[top : top + size, left : left + size]
        patch += ink * (tint - patch)
    return np.rint(picture).astype(np.uint8)


def encode(picture: np.ndarray) -> bytes:
    """The image as JPEG, without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()
