"""Records with one of a few known classes: ESC-50's sounds and ModelNet40's shapes."""

from collections.abc import Sequence
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.readers.fields import BadRow


def spoken(name: str) -> str:
    """The readable name of a class: "vacuum_cleaner" -> "vacuum cleaner"."""
    return name.replace("_", " ").strip().lower()


def record(
    name: str, split: str, shown: str, own: str, classes: Sequence[str], meta: dict[str, Any] | None = None
) -> Record:
    """The record of the medium ``shown``, whose class is ``own`` of ``classes``. Raises BadRow for another class."""
    names = tuple(map(spoken, classes))
    if (answer := spoken(own)) not in names:
        raise BadRow("label outside the candidates", own[:40])
    return Record(
        uid=f"{name}/{split}/{shown}",
        dataset=name,
        split=split,
        task="rank",
        media=(),
        slots={},
        answers=(answer,),
        candidates=names,
        label=names.index(answer),
        image_id=shown,
        meta=meta or {},
    )
