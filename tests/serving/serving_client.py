"""Requests that tests send to a server."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image


def png(seed, side=(40, 30)):
    """A picture's file."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def url(data, kind="image/png"):
    """A data: URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def about(text, *pictures):
    """Content parts: pictures, then a text."""
    return [
        *({"type": "image_url", "image_url": {"url": url(one)}} for one in pictures),
        {"type": "text", "text": text},
    ]


def together(function, items):
    """``function`` of all items, each in a thread of its own."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(function, items))
