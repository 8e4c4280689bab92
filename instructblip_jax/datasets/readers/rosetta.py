"""Words that were read in pictures: TextVQA_Rosetta_OCR_v0.2_{train,val,test}.json, or a row's own ``ocr_tokens``."""

from pathlib import Path

from instructblip_jax.datasets.readers.fields import Bad, Row, texts
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.rows import find

SHOWN = 30
"""As many words as an instruction holds."""


def read(source: Path, split: str) -> dict[str, tuple[str, ...]]:
    """Picture -> its words, of the file in the source or in ../textvqa; empty where there is none."""
    name = f"TextVQA_Rosetta_OCR_v0.2_{split}.json"
    path = find(source, name, f"../textvqa/{name}", f"../{name}")
    found: dict[str, tuple[str, ...]] = {}
    for _, row in elements(path, "data") if path else ():
        if isinstance(row, dict) and isinstance(image := row.get("image_id"), str):
            found[image] = tokens(row)
    return found


def tokens(row: Row) -> tuple[str, ...]:
    """The row's ``ocr_tokens``; none where they are absent or no list of texts: pictures can do without."""
    try:
        return tuple(filter(None, texts(row, "ocr_tokens")))
    except Bad:
        return ()


def shown(words: tuple[str, ...]) -> str:
    """The words as instructions hold them."""
    return ", ".join(words[:SHOWN])
