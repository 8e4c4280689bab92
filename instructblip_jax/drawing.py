"""Draws attention over images, with Pillow and NumPy only."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, SMALL = 240, 80
"""Side of an image, and of one of many small ones, in pixels."""
GAP, LINE = 8, 20
"""Gap between images, and height of a line of text, in pixels."""
PAPER, INK = (255, 255, 255), (30, 30, 30)
COLD, WARM, BLUE = np.array([20.0, 20.0, 60.0]), np.array([255.0, 190.0, 40.0]), np.array([70.0, 130.0, 255.0])
"""The colours of low and high attention, and of less attention than in another view."""
FRAMES = 8
"""Maximum number of frames of a video that are drawn."""


def heated(picture: Image.Image, heat: np.ndarray, side: int) -> Image.Image:
    """A square image overlaid with a map [grid, grid], its maximum in the warmest colour: [side, side] pixels."""
    smooth = np.maximum(_smooth(heat, side), 0.0)
    return _tinted(picture, COLD + (WARM - COLD) * smooth)


def compared(picture: Image.Image, change: np.ndarray, side: int) -> Image.Image:
    """The same, overlaid with the difference of two maps [grid, grid]: warm above 0, blue below."""
    smooth = _smooth(change, side)
    return _tinted(picture, np.maximum(smooth, 0.0) * WARM + np.maximum(-smooth, 0.0) * BLUE)


def _smooth(heat: np.ndarray, side: int) -> np.ndarray:
    """A map interpolated between patches, scaled by its largest magnitude to -1..1: float32 [side, side, 1]."""
    top = float(np.abs(heat).max())
    share = Image.fromarray((heat / top if top > 0 else heat).astype(np.float32))
    return np.clip(np.asarray(share.resize((side, side), Image.Resampling.BICUBIC)), -1.0, 1.0)[..., None]


def _tinted(picture: Image.Image, colour: np.ndarray) -> Image.Image:
    """A grey image overlaid with a colour per pixel, float [side, side, 3]."""
    grey = np.asarray(picture.convert("L").resize(colour.shape[:2]), np.float32)[..., None]
    return Image.fromarray((0.45 * grey + 0.55 * colour).astype(np.uint8))


def sheet(
    pictures: Sequence[Image.Image], named: Mapping[str, np.ndarray], *, each: bool = False, title: str = ""
) -> Image.Image:
    """A row with the image, and for each name the image overlaid with the mean of its maps [Q, grid, grid]; for two
    names also the first mean minus the second. ``each``: all maps below. A video, with maps [F, Q, grid, grid], has one
    row for each of its first frames.

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
            f"maps have the shape {list(maps.shape)}; expected [Q, grid, grid] for an image, or [F, Q, grid, grid] for "
            f"{frames} frames, as returned by `look`"
        )
    return found


def _all(picture: Image.Image, maps: np.ndarray, width: int) -> Image.Image:
    """All maps [Q, grid, grid] of an image, in rows of at most ``width`` pixels."""
    columns = max(1, (width + GAP) // (SMALL + GAP))
    cells = [heated(picture, heat, SMALL) for heat in maps]
    return below([beside(cells[n * columns : (n + 1) * columns]) for n in range(math.ceil(len(cells) / columns))])


def labelled(picture: Image.Image, text: str) -> Image.Image:
    """An image below a line of text, which is cut to its width."""
    font = ImageFont.load_default(size=14)
    cut = text
    while cut and font.getlength(cut + ("" if cut == text else "...")) > picture.width:
        cut = cut[:-1]
    paper = Image.new("RGB", (picture.width, picture.height + LINE), PAPER)
    ImageDraw.Draw(paper).text((0, 1), cut + ("" if cut == text else "..."), fill=INK, font=font)
    paper.paste(picture, (0, LINE))
    return paper


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Images in a row."""
    width = sum(one.width for one in pictures) + GAP * (len(pictures) - 1)
    paper, left = Image.new("RGB", (width, max(one.height for one in pictures)), PAPER), 0
    for one in pictures:
        paper.paste(one, (left, 0))
        left += one.width + GAP
    return paper


def below(pictures: Sequence[Image.Image]) -> Image.Image:
    """Images in a column."""
    height = sum(one.height for one in pictures) + GAP * (len(pictures) - 1)
    paper, top = Image.new("RGB", (max(one.width for one in pictures), height), PAPER), 0
    for one in pictures:
        paper.paste(one, (0, top))
        top += one.height + GAP
    return paper
