"""Reads MMC4 (arXiv 2304.06939): documents as lists of sentences, with images matched to them.

The source has docs_*shard_*.jsonl, zipped as .jsonl.zip or not, or OpenFlamingo's tar shards, whose .json members
contain images in base64. Other images are local copies, named by ``image_name``.

An image precedes the sentence to which it is matched, and a sentence has at most one: the assignment maximises the sum
of similarities, as in OpenFlamingo's code. Without a ``similarity_matrix`` the release's own ``matched_text_index`` is
used, in which several images may share a sentence.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from instructblip_jax.datasets.draft import Media, Release, Rows, Stream
from instructblip_jax.datasets.readers import documents
from instructblip_jax.datasets.readers.documents import LEAST, LEFT_OUT
from instructblip_jax.datasets.readers.fields import (
    BadRow,
    SourceRow,
    extras,
    full_text,
    index,
    need,
    one_line,
    typed,
)
from instructblip_jax.datasets.readers.json_files import Entry, json_lines
from instructblip_jax.datasets.readers.source_rows import Made, drafts, nonempty
from instructblip_jax.datasets.readers.stores import Store, store
from instructblip_jax.datasets.readers.web_pairs import samples, shards_in

SIMILARITY = 0.24
"""Minimum similarity of an image to its sentence (arXiv 2308.01390, and its code)."""
SMALLEST = 10_000
"""Minimum size of an image in bytes, as in OpenFlamingo's code."""
LONGEST = 1 << 28
"""Limit, in bytes, of a document with its images in a tar shard."""
Picture = tuple[int, Media]
"""The index of an image in its row, and its location."""


def _splits(source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    where = store(source, images, "images")
    lists = [path for path in _files(source) if path.name.endswith((".jsonl", ".jsonl.zip"))]
    tars = [] if lists else shards_in(source)
    rows: dict[str, Rows] = {"train": partial(_rows, lists, tars, where)} if lists or tars else {}
    return nonempty(rows, source, "docs_*shard_*.jsonl", "docs_*shard_*.jsonl.zip", "*.tar")


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(source.glob("docs*shard*"))


def _rows(lists: Sequence[Path], tars: Sequence[Path], where: Store) -> Stream:
    def entries() -> Iterator[Entry]:
        for path in lists:
            for number, (place, row) in enumerate(_lines(path)):
                yield place, _named(row, f"{path.name.partition('.')[0]}:{number}")
        for path in tars:
            for name, row in _members(path):
                key = name.removeprefix("/")
                yield f"{path}:{key}", _named(row, f"{path.stem}/{key}")

    return drafts(entries(), partial(_make, where))


def _named(row: object, uid: str) -> object:
    return {**row, "uid": uid} if isinstance(row, Mapping) else row


def _lines(path: Path) -> Iterator[Entry]:
    if path.suffix != ".zip":
        yield from json_lines(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".jsonl"):
                    with archive.open(name) as file:
                        yield from json_lines(path, file)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path}: not a complete ZIP archive ({error}); fetch it again") from error


def _members(path: Path) -> Iterator[Entry]:
    for key, parts in samples(path):
        offset, size = parts.get("json", (0, 0))
        if not 0 < size <= LONGEST:
            yield key, BadRow("no document in the sample", f".json of {size} bytes")
            continue
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        try:
            yield key, json.loads(data)
        except (ValueError, RecursionError) as error:
            yield key, BadRow("broken document", str(error)[:80])


def _make(where: Store, row: SourceRow) -> Iterator[Made]:
    sentences = [one_line(typed(text, str, "text_list")) for text in typed(need(row, "text_list"), list, "text_list")]
    listed = typed(need(row, "image_info"), list, "image_info")
    notes: list[str] = []
    there: list[Picture] = []
    for number, info in enumerate(listed):
        try:
            there.append((number, _picture(where, typed(info, dict, "image_info"))))
        except BadRow as bad:
            notes.append(LEFT_OUT + bad.reason)
    before: dict[int, list[Media]] = {}
    for (_, medium), sentence, similarity in _matched(row, there, listed, len(sentences)):
        if similarity < SIMILARITY:
            notes.append(f"{LEFT_OUT}similarity below {SIMILARITY}")
        else:
            before.setdefault(sentence, []).append(medium)
    notes += [f"{LEFT_OUT}more pictures than sentences"] * (len(listed) - len(notes) - sum(map(len, before.values())))
    pieces = [piece for n, text in enumerate(sentences) for piece in (*before.get(n, ()), text)]
    uid = f"mmc4/train/{row['uid']}"
    yield documents.made(uid, "mmc4", "train", pieces, " ", notes=notes, meta=extras(row, "url"))


def _picture(where: Store, info: SourceRow) -> Media:
    """Raises BadRow for one that is missing or too small."""
    if "image_base64" in info:
        data = documents.decoded(typed(info["image_base64"], str, "image_base64"))
        size, medium = len(data), Media(data=data, least=LEAST)
    else:
        name = full_text(info, "image_name")
        path = where.find(name, f"images/{name}")
        try:
            size, medium = path.stat().st_size, Media(path, least=LEAST)
        except (OSError, ValueError):
            raise BadRow("missing picture") from None
    if size < SMALLEST:
        raise BadRow("below 10 KB")
    return medium


def _matched(
    row: SourceRow, there: Sequence[Picture], listed: Sequence[SourceRow], sentences: int
) -> Iterator[tuple[Picture, int, float]]:
    """(image, index of its sentence, similarity). Raises BadRow for a matrix of another shape."""
    if row.get("similarity_matrix") is None:
        for picture in there:
            info = listed[picture[0]]
            sentence = index(need(info, "matched_text_index"), sentences, "matched_text_index")
            yield picture, sentence, _number(info.get("matched_sim", 1.0))
        return
    try:
        matrix = np.array(row["similarity_matrix"], np.float64).reshape(len(listed), sentences)
    except (ValueError, TypeError, OverflowError):
        matrix = np.full((1, 1), np.nan)
    if not np.isfinite(matrix).all():
        raise BadRow("wrong type", "similarity_matrix: not a number for each picture and sentence")
    from scipy.optimize import linear_sum_assignment  # slow to import

    own = matrix[[number for number, _ in there]]
    for place, sentence in zip(*linear_sum_assignment(own, maximize=True), strict=True):
        yield there[place], int(sentence), float(own[place, sentence])


def _number(value: object) -> float:
    return float(typed(value, int if isinstance(value, int) else float, "matched_sim"))


RELEASE = Release(_splits)
