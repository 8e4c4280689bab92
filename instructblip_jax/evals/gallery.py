"""Predictions with their images, as a self-contained HTML page or as Markdown: the public `show`.

`evaluate` keeps thumbnails of the images of a sample of each set in W/predictions/media. Each is stored once, named by
its digest, which the lines of W/predictions/SET.jsonl have in "media".
"""

import base64
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from instructblip_jax.data.record import IMAGE_KINDS, Record, key_of
from instructblip_jax.processors.image import open_image
from instructblip_jax.run.workdir import Workdir

ROWS = 24
"""Number of predictions shown per set."""
SIDE = 160
"""Largest side of a thumbnail, in pixels."""
REFERENCES, CHARACTERS = 5, 500
"""Maximum number of references per row, and of characters per text, that are shown."""
MEDIA = "predictions/media"
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Predictions</title><style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; color-scheme: light dark }
table { border-collapse: collapse } th, td { padding: .4em .7em; text-align: left; vertical-align: top }
tr { border-bottom: 1px solid #8884 } td { max-width: 30em; overflow-wrap: anywhere }
img { width: 120px; image-rendering: pixelated; margin-right: 4px } .none { opacity: .6 }
</style></head><body>
"""
COLUMNS = ("picture", "question", "answer", "references")

Row = Mapping[str, Any]
"""A parsed line of W/predictions/SET.jsonl (`judge.line`)."""


def keep(workdir: Workdir, asked: Sequence[Record], rows: Sequence[Row]) -> list[Row]:
    """Save thumbnails for an evenly spaced sample of a set's questions, and return the rows that answer them."""
    count = min(ROWS, len(asked))
    records = [asked[n * len(asked) // count] for n in range(count)]
    folder = workdir.path / MEDIA
    folder.mkdir(parents=True, exist_ok=True)
    for medium in {medium for record in records for medium in record.media if medium.kind in IMAGE_KINDS}:
        path = folder / f"{key_of(medium.data).hex()}.jpg"
        if not path.exists():
            path.write_bytes(_small(medium.data))
    wanted = {record.uid for record in records}
    found: dict[str, Row] = {}
    for row in rows:
        if row["uid"] in wanted:
            found.setdefault(row["uid"], row)
    return list(found.values())


def _small(data: bytes) -> bytes:
    picture, content = open_image(data, "picture"), io.BytesIO()
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    picture.save(content, format="JPEG", quality=90)
    return content.getvalue()


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Predictions of one or more sets. A notebook displays them as a table; `str` returns Markdown.

    Attributes:
      workdir: the run's directory.
      sets: set -> its rows.
    """

    workdir: Workdir
    sets: Mapping[str, Sequence[Row]]

    @property
    def html(self) -> str:
        """A complete HTML page with embedded images."""
        return f"{HEAD}{self._repr_html_()}</body></html>\n"

    def _repr_html_(self) -> str:
        parts = []
        for name, rows in self.sets.items():
            head = "".join(f"<th>{column}</th>" for column in COLUMNS)
            body = "".join(f"<tr>{self._cells(row)}</tr>\n" for row in rows)
            parts.append(f"<h2>{escape(name)}</h2>\n<table><tr>{head}</tr>\n{body}</table>\n")
        return "".join(parts)

    def __str__(self) -> str:
        """Markdown that links the image files in the workdir."""
        parts = []
        for name, rows in self.sets.items():
            lines = [COLUMNS, ("---",) * len(COLUMNS)]
            for row in rows:
                shown = " ".join(f"![]({path.relative_to(self.workdir.path)})" for path in self._paths(row))
                lines.append((shown, *(_plain(text) for text in _texts(row))))
            table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
            parts.append(f"## {name}\n\n{table}")
        return "\n".join(parts)

    def _paths(self, row: Row) -> list[Any]:
        """The thumbnails of a row."""
        paths = [self.workdir.path / MEDIA / f"{key}.jpg" for key in row.get("media", ())]
        return [path for path in paths if path.exists()]

    def _cells(self, row: Row) -> str:
        coded = [base64.b64encode(path.read_bytes()).decode() for path in self._paths(row)]
        shown = "".join(f'<img alt="" src="data:image/jpeg;base64,{code}">' for code in coded)
        texts = "".join(f"<td>{escape(text)}</td>" for text in _texts(row))
        return f"<td>{shown or '<span class=none>not kept</span>'}</td>{texts}"


def _texts(row: Row) -> tuple[str, str, str]:
    """Question, answer and references of a row."""
    references = [str(text) for text in row.get("answers", ())]
    more = f" (and {len(references) - REFERENCES} more)" if len(references) > REFERENCES else ""
    texts = (row["instruction"], row["prediction"], " | ".join(references[:REFERENCES]))
    asked, said, known = (text if len(text) <= CHARACTERS else text[:CHARACTERS] + " ..." for text in texts)
    return asked, said, known + more


def _plain(text: str) -> str:
    """A text, escaped for a cell of a Markdown table."""
    return " ".join(escape(text, quote=False).replace("|", "\\|").split())


def show(workdir: str | Path, set_name: str | None = None, *, rows: int = ROWS) -> Gallery:
    """Predictions of an evaluated run with their images: at most ``rows`` of each set, or of ``set_name`` only.

    Rows whose images `evaluate` kept come first. Raises FileNotFoundError if nothing was evaluated, and ValueError,
    which lists the evaluated sets, for an unknown ``set_name``.
    """
    run = Workdir(str(workdir))
    files = {path.name.removesuffix(".jsonl"): path for path in sorted((run.path / "predictions").glob("*.jsonl"))}
    known = {name: path for name, path in files.items() if ".part-" not in name}
    if not known:
        raise FileNotFoundError(f"{run.path}: has no predictions yet; `instructblip evaluate` makes them")
    if set_name is not None and set_name not in known:
        raise ValueError(f"{set_name} was not evaluated; there are {', '.join(known)}")
    gallery = Gallery(run, {})
    chosen = {}
    for name in known if set_name is None else [set_name]:
        lines = map(json.loads, known[name].read_text().splitlines())
        texts = [row for row in lines if "prediction" in row]  # retrieval has none
        chosen[name] = sorted(texts, key=lambda row: not gallery._paths(row))[:rows]
    return dataclasses.replace(gallery, sets={name: found for name, found in chosen.items() if found})
