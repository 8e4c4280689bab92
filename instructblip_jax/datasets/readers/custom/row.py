"""A row of any format in the columns of the own format, and the names that these columns may have."""

import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.readers import forms
from instructblip_jax.datasets.readers.custom import lists
from instructblip_jax.datasets.readers.custom.text import Unusable

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "images", "video"),
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
"""Column -> the names it may have. What is none of these goes to `Record.meta`."""
FOLDER_COLUMNS = COLUMNS | {"answer": (*COLUMNS["answer"], "text")}
"""Of metadata beside pictures and of tables with pictures in them, as Hugging Face has them; see also `LABEL`."""
LABEL = "label"
ASKS_LABEL = "What is in the picture?"
"""The instruction of a picture with nothing but a class."""
LISTS = {"images", "answers", "candidates", "choices", "weights", "file_names"}
"""Columns that hold lists: a text there that begins as a list must be one."""
TEXTS = {"answer", "caption"}
"""Columns that hold texts, and lists of texts: a text there that is no such list stays as it is."""
CAPTIONS = ("caption", "text")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row, before it is checked.

    Attributes:
      where: "FILE:LINE" or "FILE:KEY".
      number: stands for an id where the row has none.
      fields: `COLUMNS` -> value, and under "meta" the rest. "video" is true where the picture's column was called so.
      folder: what its paths are relative to, besides the image roots.
      split: what file and folder are called, if that says it.
      media: its pictures, where the format holds them itself.
      turns: of a conversation, which need not have a picture.
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


Rows = Generator[Row | Skip, None, int]
"""The rows of a file or folder; what it returns is how many it holds, see `draft.Stream`."""


def made(
    where: str,
    number: int | str,
    fields: Mapping[str, Any],
    folder: Path,
    split: str | None,
    columns: Mapping[str, tuple[str, ...]] = COLUMNS,
    rows: int = 1,
) -> Row | Skip:
    """The row of such fields, or why there is none. Raises ValueError like `canonical`."""
    try:
        return Row(where, number, canonical(fields, where, columns), folder, split, rows=rows)
    except Unusable as error:
        return Skip(where, error.reason, error.detail, rows)


def is_file_name(name: str) -> bool:
    return name in ("file_name", "file_names") or name.endswith(("_file_name", "_file_names"))


def canonical(
    fields: Mapping[str, Any], where: str, columns: Mapping[str, tuple[str, ...]] = COLUMNS
) -> dict[str, Any]:
    """Fields under the names of `COLUMNS`. Raises ValueError where two names of one column are there at once, and
    `Unusable` for what begins as a list and is none, where a list is expected."""
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
        if len(present) > 1:  # exporters fill columns that a row does not have with nulls
            said = [name for name in present if fields[name] is not None]
            known |= set(present)
            present = said or present[:1]
        if len(present) > 1:
            raise ValueError(f"{where}: {' and '.join(present)} both mean the {column}; keep one of them")
        if not present:
            continue
        name = present[0]
        known.add(name)
        found.setdefault(column, _value(names[name], fields[name]))
        if column == "image" and names[name] == "video":
            found["video"] = True
        if column == "answer" and names[name] in CAPTIONS and not _said(found.get("instruction")):
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
    """The list that a text is, in the columns that may hold one: tables have no other way to hold it."""
    if not isinstance(value, str):
        return value
    if name in LISTS or name.endswith("_file_names"):
        return lists.of_text(value, name)
    return lists.of_texts(value) if name in TEXTS else value


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _said(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None
