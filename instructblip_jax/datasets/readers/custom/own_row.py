"""A row of the user's own files in any format: its columns and their possible names."""

import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.readers import documents, forms
from instructblip_jax.datasets.readers.custom import lists
from instructblip_jax.datasets.readers.custom.text import IMAGE
from instructblip_jax.datasets.readers.fields import BadRow, encodable

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "images", "video"),
    "audio": ("audio",),
    "pc": ("pc", "point_cloud"),
    "instruction": ("instruction", "question", "prompt", "text_input"),
    "answer": ("answer", "answers", "caption", "response", "output", "text_output"),
    "candidates": ("candidates", "choices"),
    "weights": ("weights",),
    "context": ("context",),
    "id": ("id",),
    "split": ("split",),
    "task": ("task",),
    "image_id": ("image_id",),
    "question_id": ("question_id",),
}
"""Column -> its possible names. Fields with other names go to `Record.meta`."""
FOLDER_COLUMNS = COLUMNS | {"answer": (*COLUMNS["answer"], "text")}
"""The columns of Hugging Face's layouts: metadata files next to images, tables with images. See also `LABEL`."""
LABEL = "label"
ASKS_LABEL = "What is in the picture?"
"""The instruction for an image that has only a class."""
LISTS = {"images", "answers", "candidates", "choices", "weights", "file_names"}
"""Columns of lists: a string in them that begins like a list must be one."""
TEXTS = {"answer", "caption"}
"""Columns of text or lists of texts: a string in them that is not such a list is treated as text."""
CAPTIONS = ("caption", "text")
TEXT_FIELDS = ("text", "texts")
"""Fields with the text of a document."""


@dataclasses.dataclass(frozen=True)
class OwnRow:
    """One row of the user's files, not yet checked.

    Attributes:
      where: "FILE:LINE" or "FILE:KEY".
      number: the id of a row that has no id.
      fields: column of `COLUMNS` -> value; "meta" has the remaining fields, and "video" is true if the image column was
        called "video".
      folder: its paths are relative to this folder or to an image root.
      split: the split named by its file or folder, if any.
      media: its images, if the format itself contains them.
      turns: the turns of a conversation, which need not have an image.
      parts: of a document: texts and indices of its images, in reading order.
      rows, notes: see `Draft`.
    """

    where: str
    number: int | str
    fields: Mapping[str, Any]
    folder: Path
    split: str | None = None
    media: tuple[Media, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    rows: int = 1
    notes: tuple[str, ...] = ()
    parts: tuple[str | int, ...] = ()


OwnRows = Generator[OwnRow | Skip, None, int]
"""The rows of a file or folder. The generator returns the number of rows in its source; see `draft.Stream`."""


def made(
    where: str,
    number: int | str,
    fields: Mapping[str, Any],
    folder: Path,
    split: str | None,
    columns: Mapping[str, tuple[str, ...]] = COLUMNS,
    rows: int = 1,
) -> OwnRow | Skip:
    """The row with these fields, or a `Skip` with the reason why there is none. Raises ValueError like `canonical`."""
    try:
        if (found := document(fields)) is not None:
            parts, fields = found
            return OwnRow(where, number, canonical(fields, where, COLUMNS), folder, split, rows=rows, parts=parts)
        return OwnRow(where, number, canonical(fields, where, columns), folder, split, rows=rows)
    except BadRow as error:
        return Skip(where, error.reason, error.detail, rows)


def document(fields: Mapping[str, Any]) -> tuple[tuple[str | int, ...], dict[str, Any]] | None:
    """The parts of a row that is a document, and its other fields; None for other rows.

    A document has a ``text`` with "<image>" at the position of its images, or parallel lists ``texts`` and ``images``,
    one of which is null at each position. A text without images is also a document, if the row has no other target.

    Raises BadRow for lists that do not match, and for a document without text.
    """
    left = {name: value for name, value in fields.items() if not (isinstance(name, str) and name in TEXT_FIELDS)}
    if isinstance(fields.get("texts"), list) and isinstance(fields.get("images"), list):
        pairs = list(documents.pairs(fields))
        marked = [IMAGE if text is None else text.replace(IMAGE, " ") for _, text in pairs]
        return _parts(documents.PARAGRAPH.join(marked)), {
            **left,
            "images": [picture for picture, text in pairs if text is None],
        }
    if not isinstance(text := fields.get("text"), str):
        return None
    learnt = [*COLUMNS["instruction"], *COLUMNS["answer"]]
    shown = any(fields.get(name) for name in fields if name in COLUMNS["image"] or is_file_name(str(name)))
    taught = any(not forms.absent(fields.get(name)) for name in learnt)
    if taught or not (IMAGE in text or not shown):
        return None
    return _parts(text), left


def _parts(text: str) -> tuple[str | int, ...]:
    """Raises BadRow if there is no text apart from the marks."""
    first, *others = (forms.normal(encodable(piece)) for piece in text.split(IMAGE))
    parts: list[str | int] = [first]
    for number, piece in enumerate(others):
        parts += [number, piece]
    if not any(isinstance(part, str) and part for part in parts):
        raise BadRow("document without text")
    return tuple(part for part in parts if part != "")


def is_file_name(name: str) -> bool:
    return name in ("file_name", "file_names") or name.endswith(("_file_name", "_file_names"))


def canonical(
    fields: Mapping[str, Any], where: str, columns: Mapping[str, tuple[str, ...]] = COLUMNS
) -> dict[str, Any]:
    """The fields under the column names of `COLUMNS`.

    Raises:
      ValueError: two fields mean the same column.
      BadRow: a field that must be a list begins like one but cannot be parsed.
    """
    fields = {name: None if forms.absent(value) else value for name, value in fields.items()}
    found: dict[str, Any] = {}
    known: set[str] = set()
    names = {name: name.strip().lower() for name in fields if isinstance(name, str)}
    for column, aliases in columns.items():
        present = [name for name, plain in names.items() if plain in aliases]
        if column == "image":
            files = [name for name, plain in names.items() if is_file_name(plain)]
            if files:
                known |= set(files)
                found["image"] = [
                    each for name in files for each in _listed(_value(names[name], fields[name])) if each is not None
                ]
                present += files[:1]
        if len(present) > 1:  # exporters fill missing columns with nulls
            filled = [name for name in present if fields[name] is not None]
            known |= set(present)
            present = filled or present[:1]
        if len(present) > 1:
            raise ValueError(f"{where}: {' and '.join(present)} both mean the {column}; keep one of them")
        if not present:
            continue
        name = present[0]
        known.add(name)
        found.setdefault(column, _value(names[name], fields[name]))
        if column == "image" and names[name] == "video":
            found["video"] = True
        if column == "answer" and names[name] in CAPTIONS and not _has_text(found.get("instruction")):
            found.pop("instruction", None)  # a caption needs none
    if columns is FOLDER_COLUMNS and "answer" not in found:
        label = next((name for name, plain in names.items() if plain == LABEL), None)
        if label is not None:
            known.add(label)
            found["answer"] = fields[label]
            found.setdefault("instruction", ASKS_LABEL)
            found.setdefault("task", "choice")
    found["meta"] = {name: value for name, value in fields.items() if name not in known and value not in (None, "")}
    return found


def _value(name: str, value: Any) -> Any:
    """The value of the column ``name``; a string that spells a list is parsed, because tables store lists in this
    way."""
    if not isinstance(value, str):
        return value
    if name in LISTS or name.endswith("_file_names"):
        return lists.of_text(value, name)
    return lists.of_texts(value) if name in TEXTS else value


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _has_text(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None
