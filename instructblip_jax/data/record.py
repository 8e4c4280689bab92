"""The one record that every data set becomes and everything downstream sees."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Record:
    """A picture, what is asked about it, and what may be answered.

    ``uid`` is "<dataset>/<split>/<number>". ``image`` holds encoded bytes. ``slots`` fill the set's templates, unless
    ``instruction`` is the ready text. Of ``answers`` the first is the canonical one; training draws one at a visit, a
    metric accepts any.
    """

    uid: str
    dataset: str
    split: str
    task: str
    image: bytes
    slots: Mapping[str, str]
    answers: tuple[str, ...]
    instruction: str | None = None
    candidates: tuple[str, ...] = ()
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """Everything but the picture."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "image"}
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, image: bytes) -> "Record":
        """The inverse of `to_json`."""
        fields = json.loads(text)
        fields["answers"], fields["candidates"] = tuple(fields["answers"]), tuple(fields["candidates"])
        return cls(image=image, **fields)
