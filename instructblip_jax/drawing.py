"""Attention drawn over pictures, with Pillow and NumPy alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, SMALL = 240, 80
"""Pixels along a side of a picture, and of one of many."""
GAP, LINE = 8, 20
"""Pixels between pictures, and of a line of text."""
PAPER, INK = (255, 255, 255), (30, 30, 30)
COLD, WARM, BLUE = np.array([20.0, 20.0, 60.0]), np.array([255.0, 190.0, 40.0]), np.array([70.0, 130.0, 255.0])
"""The colours of little and of much attention, and of less than in another view."""
FRAMES = 8
"""The most frames of a video that are drawn."""


def heated(picture: Image.Image, heat: np.ndarray, side: int) -> Image.Image:
    """A square picture under a map [grid, grid], its largest value in the warmest colour: [side, side] pixels."""
    smooth = np.maximum(_smooth(heat, side), 0.0)
    return _tinted(picture, COLD + (WARM - COLD) * smooth)


def compared(picture: Image.Image, change: np.ndarray, side: int) -> Image.Image:
    """The same under the difference of two maps [grid, grid]: warm where it is above 0, blue where below."""
    smooth = _smooth(change, side)
    return _tinted(picture, np.maximum(smooth, 0.0) * WARM + np.maximum(-smooth, 0.0) * BLUE)


def _smooth(heat: np.ndarray, side: int) -> np.ndarray:
    """A map between patches, -1 to 1 by its own largest value: float32 [side, side, 1]."""
    top = float(np.abs(heat).max())
    share = Image.fromarray((heat / top if top > 0 else heat).astype(np.float32))
    return np.clip(np.asarray(share.resize((side, side), Image.Resampling.BICUBIC)), -1.0, 1.0)[..., None]


def _tinted(picture: Image.Image, colour: np.ndarray) -> Image.Image:
    """A picture in grey under a colour a pixel, float [side, side, 3]."""
    grey = np.asarray(picture.convert("L").resize(colour.shape[:2]), np.float32)[..., None]
    return Image.fromarray((0.45 * grey + 0.55 * colour).astype(np.uint8))


def sheet(
    pictures: Sequence[Image.Image], named: Mapping[str, np.ndarray], *, each: bool = False, title: str = ""
) -> Image.Image:
    """A row: the picture, and for each name the picture under the mean of its maps [Q, grid, grid]; of two names also
    the first mean less the second. ``each``: below them all maps. A video, maps [F, Q, grid, grid], has a row a frame,
    its first ones.

    Raises ValueError for maps of another shape, or for frames and maps of different numbers.
    """
    columns = {name: _framed(maps, len(pictures)) for name, maps in named.items()}
    rows = []
    for frame, picture in enumerate(pictures[:FRAMES]):
        cells = [labelled(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), "")]
        for name, maps in columns.items():
            cells.append(labelled(heated(picture, maps[frame].mean(axis=0), SIDE), name))
        if len(columns) == 2:
            first, second = (maps[frame].mean(axis=0) for maps in columns.values())
            label = f"difference, at most {np.abs(first - second).max():.2g}"
            cells.append(labelled(compared(picture, first - second, SIDE), label))
        rows.append(beside(cells))
        if each:
            rows += [labelled(_all(picture, maps[frame], rows[-1].width), name) for name, maps in columns.items()]
    whole = below(rows)
    return labelled(whole, title) if title else whole


def _framed(maps: np.ndarray, frames: int) -> np.ndarray:
    """Maps as [F, Q, grid, grid]."""
    found = maps[None] if maps.ndim == 3 else maps
    if found.ndim != 4 or found.shape[0] != frames or found.shape[2] != found.shape[3]:
        raise ValueError(
            f"maps have the shape {list(maps.shape)}; [Q, grid, grid] of a picture, or [F, Q, grid, grid] of {frames} "
            "frames is needed, as `look` returns them"
        )
    return found


def _all(picture: Image.Image, maps: np.ndarray, width: int) -> Image.Image:
    """All maps [Q, grid, grid] of a picture, in rows that are not wider than ``width``."""
    columns = max(1, (width + GAP) // (SMALL + GAP))
    cells = [heated(picture, heat, SMALL) for heat in maps]
    return below([beside(cells[n * columns : (n + 1) * columns]) for n in range(math.ceil(len(cells) / columns))])


def labelled(picture: Image.Image, text: str) -> Image.Image:
    """A picture below a line of text, which is cut to its width."""
    font = ImageFont.load_default(size=14)
    cut = text
    while cut and font.getlength(cut + ("" if cut == text else "...")) > picture.width:
        cut = cut[:-1]
    paper = Image.new("RGB", (picture.width, picture.height + LINE), PAPER)
    ImageDraw.Draw(paper).text((0, 1), cut + ("" if cut == text else "..."), fill=INK, font=font)
    paper.paste(picture, (0, LINE))
    return paper


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row."""
    width = sum(one.width for one in pictures) + GAP * (len(pictures) - 1)
    paper, left = Image.new("RGB", (width, max(one.height for one in pictures)), PAPER), 0
    for one in pictures:
        paper.paste(one, (left, 0))
        left += one.width + GAP
    return paper


def below(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a column."""
    height = sum(one.height for one in pictures) + GAP * (len(pictures) - 1)
    paper, top = Image.new("RGB", (max(one.width for one in pictures), height), PAPER), 0
    for one in pictures:
        paper.paste(one, (0, top))
        top += one.height + GAP
    return paper
