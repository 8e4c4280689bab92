"""The one record that every data set becomes and everything downstream sees."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TASKS = ("caption", "vqa", "vqg", "choice", "rank", "binary", "dialog", "open", "document")
"""The kinds of request: a caption, a short answer, a question, one of a few candidates, one of many, yes or no, the
next turn of a dialogue, a long answer; or a document, which asks nothing and whose ``parts`` are all learnt.
`datasets/prompts.py` words them and `evals/` judges them."""
DOCUMENT = TASKS[-1]
"""The task of a document."""
IMAGE, FRAME, AUDIO, POINTS = "image", "frame", "audio", "points"
"""Kinds of media: a picture, a frame of a video, a recording, a point cloud."""
IMAGE_KINDS = (IMAGE, FRAME)
"""Those that are encoded pictures."""
Kinds = tuple[str, ...]
"""The kinds of a record's media, in their order."""
BLANK: Kinds = (IMAGE,)
"""The kinds of a record without media, which is shown as a blank picture."""


class Medium(NamedTuple):
    """One medium of a record: its kind and its encoded bytes."""

    kind: str
    data: bytes


def key_of(data: bytes) -> bytes:
    """16 bytes that name encoded media: equal for equal bytes, whatever set they are in."""
    return hashlib.blake2b(data, digest_size=16).digest()


def without(parts: Sequence[str | int], numbers: Mapping[int, int]) -> tuple[str | int, ...]:
    """The ``parts`` of a document that keeps those of its media that have new ``numbers`` (old -> new). Texts that
    become neighbours are joined by a blank."""
    kept: list[str | int] = []
    for part in parts:
        if isinstance(part, int):
            kept += [numbers[part]] if part in numbers else []
        elif kept and isinstance(kept[-1], str):
            kept[-1] = f"{kept[-1]} {part}"
        else:
            kept.append(part)
    return tuple(kept)


@dataclasses.dataclass(frozen=True)
class Record:
    """Media, what is asked about them, and what may be answered.

    Attributes:
      uid: "<dataset>/<split>/<source id>", followed by "#k" for the k-th of several from one source row.
      task: one of `TASKS`, or a set's own word.
      media: encoded media in order, none to many; a video is its frames.
      slots: fill the set's templates, unless ``instruction`` is the ready text.
      answers: distinct, the canonical one first; empty on blind test splits. Training draws one at each visit, by
        ``weights`` where there are any (one for each answer, adding up to 1).
      references: what metrics read: all annotators' answers in order, or all captions of a picture (or ``answers``).
      candidates: what can be chosen from; ``label`` is the number of the right one, or 0 or 1 for a binary task.
      relevance: 0 to 1 for each candidate (Visual Dialog's dense annotations).
      turns: the (question, answer) pairs of a dialogue, in order. Training draws one at each visit, and the turns
        before it fill the slot ``history``, unless the system reads all of them in a row; ``answers`` is then empty.
      image_id, question_id: as the release writes them, for result files.
      meta: whatever else a release says, as JSON scalars and lists.
      parts: texts, and numbers of ``media``, in reading order; () is all media first, then the instruction.
    """

    uid: str
    dataset: str
    split: str
    task: str
    media: tuple[Medium, ...]
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
    parts: tuple[str | int, ...] = ()

    @property
    def kinds(self) -> Kinds:
        """The kinds of the media that are shown: `BLANK` for a record without any."""
        return tuple(medium.kind for medium in self.media) or BLANK

    @property
    def images(self) -> tuple[bytes, ...]:
        """The encoded pictures and frames among the media."""
        return tuple(medium.data for medium in self.media if medium.kind in IMAGE_KINDS)

    @property
    def identity(self) -> int:
        """31 bits that name what is shown: equal for records of a set with the same ``image_id``, and, where there is
        none, for records with the same media."""
        named = f"{self.dataset}/{self.image_id}".encode()
        shown = named if self.image_id is not None else b"".join(key_of(medium.data) for medium in self.media)
        return int.from_bytes(hashlib.blake2b(shown, digest_size=4).digest(), "little") >> 1

    def to_json(self) -> str:
        """Everything but the media's bytes, without empty fields; "kinds" are those of the media."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "media"}
        fields["kinds"] = tuple(medium.kind for medium in self.media)
        kept = {name: value for name, value in fields.items() if name in _NEEDED or value not in (None, (), {})}
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, media: Sequence[bytes]) -> "Record":
        """The inverse of `to_json`. Without "kinds", as before version 3.0.0, all media are pictures.

        Raises ValueError where the number of media is not that of the kinds.
        """
        fields = json.loads(text)
        kinds = fields.pop("kinds", (IMAGE,) * len(media))
        for name in _TUPLES & fields.keys():
            fields[name] = tuple(fields[name])
        if "turns" in fields:
            fields["turns"] = tuple(map(tuple, fields["turns"]))
        return cls(media=tuple(Medium(kind, data) for kind, data in zip(kinds, media, strict=True)), **fields)


_NEEDED = {"uid", "dataset", "split", "task", "slots", "answers"}
_TUPLES = {"answers", "weights", "references", "candidates", "relevance", "parts"}
