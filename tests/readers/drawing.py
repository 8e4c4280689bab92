"""Helpers that read raw files, and bring the readers' output into a form that tests can compare."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fixtures import ROOTS

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Skip
from instructblip_jax.datasets.readers.releases import RELEASES

Pair = tuple[Record, list[str]]
"""A record, and the paths of its media below the world."""


def rows(name: str, world: Path, split: str, images: Sequence[Path] = ()) -> list[Draft | Skip]:
    return list(RELEASES[name].splits(world / ROOTS.get(name, name), images)[split]())


def drawn(name: str, world: Path, split: str, images: Sequence[Path] = ()) -> list[Pair]:
    """The records of a split in which no row is skipped and all pictures are whole files."""
    found = rows(name, world, split, images)
    assert not [row for row in found if isinstance(row, Skip)]
    return [(row.record, [under(world, media) for media in row.media]) for row in found]


def under(world: Path, media: Media, kind: str = "image") -> str:
    """The path of a whole file."""
    assert media == Media(media.path, kind=kind)
    return str(media.path.relative_to(world))


def skips(found: Sequence[Draft | Skip]) -> list[tuple[str, str]]:
    """(location without the folder, reason) of the skipped rows."""
    return [(row.where.rsplit("/", 1)[-1], row.reason) for row in found if isinstance(row, Skip)]


def raw(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8-sig"))


def tally(answers: Sequence[str]) -> dict[str, Any]:
    """Answers, weights and references as records hold them."""
    said = [text.strip() for text in answers]
    kept = [text for text in said if text]
    counts = Counter(kept)
    order = sorted(counts, key=lambda text: (-counts[text], kept.index(text)))
    return {
        "answers": tuple(order),
        "weights": tuple(counts[text] / len(kept) for text in order),
        "references": tuple(said),
    }


def listing(choices: Sequence[str]) -> str:
    return " ".join(f"({mark}) {choice}" for mark, choice in zip("abcdefgh", choices, strict=False))
