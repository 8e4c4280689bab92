"""The one record that every data set becomes and everything downstream sees."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

TASKS = ("caption", "vqa", "vqg", "choice", "rank", "binary", "dialog", "open")
"""What a record asks for: a caption, a short answer, a question, one of a few candidates, one of many, yes or no, the
next turn of a dialogue, a long answer. `data/prompts.py` words them and `evals/` judges them."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Pictures, what is asked about them, and what may be answered.

    Attributes:
      uid: "<dataset>/<split>/<source id>", with "#k" behind it for the k-th of several from one source row.
      task: one of `TASKS`, or a set's own word.
      images: encoded pictures, none to many; of a video its frames in order.
      slots: fill the set's templates, unless ``instruction`` is the ready text.
      answers: distinct, the canonical one first; empty on blind test splits. Training draws one at a visit, by
        ``weights`` where there are any (as many, adding up to 1).
      references: what metrics read: all annotators' answers in order, or all captions of a picture (or ``answers``).
      candidates: what can be chosen from; ``label`` is the right one's number, of a binary task 0 or 1.
      relevance: of each candidate, 0 to 1 (Visual Dialog's dense annotations).
      turns: of a dialogue, (question, answer) pairs in order. Training draws one at a visit, what came before goes into
        the slot ``history``; ``answers`` is then empty.
      image_id, question_id: as the release writes them, for result files.
      meta: whatever else a release tells, as JSON scalars and lists.
    """

    uid: str
    dataset: str
    split: str
    task: str
    images: tuple[bytes, ...]
    slots: Mapping[str, str]
    answers: tuple[str, ...]
    weights: tuple[float, ...] = ()
    references: tuple[str, ...] = ()
    instruction: str | None = None
    candidates: tuple[str, ...] = ()
    label: int | None = None
    relevance: tuple[float, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    image_id: int | str | None = None
    question_id: int | str | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """Everything but the pictures, and no field that says nothing."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "images"}
        said = {name: value for name, value in fields.items() if name in _NEEDED or value not in (None, (), {})}
        return json.dumps(said, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, images: Sequence[bytes]) -> "Record":
        """The inverse of `to_json`."""
        fields = json.loads(text)
        for name in _TUPLES & fields.keys():
            fields[name] = tuple(fields[name])
        if "turns" in fields:
            fields["turns"] = tuple(map(tuple, fields["turns"]))
        return cls(images=tuple(images), **fields)


_NEEDED = {"uid", "dataset", "split", "task", "slots", "answers"}
_TUPLES = {"answers", "weights", "references", "candidates", "relevance"}
