"""OCR words of images, from TextVQA_Rosetta_OCR_v0.2_{train,val,test}.json or a row's own ``ocr_tokens``."""

from pathlib import Path

from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, texts
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import find

SHOWN = 30
"""Maximum number of words in an instruction."""


def read(source: Path, split: str) -> dict[str, tuple[str, ...]]:
    """Image id -> its words, from the file in the source or in ../textvqa; empty if there is no file."""
    name = f"TextVQA_Rosetta_OCR_v0.2_{split}.json"
    path = find(source, name, f"../textvqa/{name}", f"../{name}")
    found: dict[str, tuple[str, ...]] = {}
    for _, row in elements(path, "data") if path else ():
        if isinstance(row, dict) and isinstance(image := row.get("image_id"), str):
            found[image] = tokens(row)
    return found


def tokens(row: SourceRow) -> tuple[str, ...]:
    """The row's ``ocr_tokens``; () if they are missing or malformed, because OCR words are optional."""
    try:
        return tuple(filter(None, texts(row, "ocr_tokens")))
    except BadRow:
        return ()


def shown(words: tuple[str, ...]) -> str:
    """The words as one text for an instruction: the first `SHOWN`, separated by commas."""
    return ", ".join(words[:SHOWN])
