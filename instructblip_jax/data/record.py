"""The common record format of all datasets, which everything downstream uses."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TASKS = ("caption", "vqa", "vqg", "choice", "rank", "binary", "dialog", "open", "document")
"""The kinds of task: a caption, a short answer, a question, one of a few candidates, one of many, yes or no, the next
turn of a dialogue, a long answer; or a document, which has no question and whose ``parts`` are all in the loss.
`datasets/prompts.py` has their prompts, and `evals/` their evaluation."""
DOCUMENT = TASKS[-1]
"""The task of documents."""
IMAGE, FRAME, AUDIO, POINTS = "image", "frame", "audio", "points"
"""Kinds of media: an image, a video frame, an audio clip, a point cloud."""
IMAGE_KINDS = (IMAGE, FRAME)
"""Those that are encoded images."""
Kinds = tuple[str, ...]
"""The kinds of a record's media, in order."""
BLANK: Kinds = (IMAGE,)
"""The kinds of a record without media, which has a blank image instead."""


class Medium(NamedTuple):
    """One medium of a record: its kind and its encoded bytes."""

    kind: str
    data: bytes


def key_of(data: bytes) -> bytes:
    """16 bytes that identify encoded media: equal for equal bytes, in any set."""
    return hashlib.blake2b(data, digest_size=16).digest()


def without(parts: Sequence[str | int], numbers: Mapping[int, int]) -> tuple[str | int, ...]:
    """The ``parts`` of a document that keeps only media with new ``numbers`` (old -> new). Texts that become adjacent
    are joined by a blank."""
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
    """Media, a task about them, and its answers.

    Attributes:
      uid: "<dataset>/<split>/<source id>", followed by "#k" for the k-th of several from one source row.
      task: one of `TASKS`, or a set's own word.
      media: encoded media in order, none to many; a video is its frames.
      slots: values for the set's templates, unless ``instruction`` is the complete text.
      answers: distinct, the canonical one first; empty in blind test splits. Training draws one at each visit, by
        ``weights`` if given (one for each answer, with sum 1).
      references: for metrics: all annotators' answers in order, or all captions of an image (default: ``answers``).
      candidates: the options; ``label`` is the index of the right one, or 0 or 1 for a binary task.
      relevance: 0 to 1 for each candidate (Visual Dialog's dense annotations).
      turns: the (question, answer) pairs of a dialogue, in order. Training draws one at each visit, with the turns
        before it in the slot ``history``, unless the system reads all of them in one row; ``answers`` is then empty.
      image_id, question_id: as in the release, for result files.
      meta: other information from the release, as JSON scalars and lists.
      parts: texts and indices of ``media``, in reading order; () means all media first, then the instruction.
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
        """The kinds of the media; `BLANK` for a record without any."""
        return tuple(medium.kind for medium in self.media) or BLANK

    @property
    def images(self) -> tuple[bytes, ...]:
        """The encoded images and frames among the media."""
        return tuple(medium.data for medium in self.media if medium.kind in IMAGE_KINDS)

    @property
    def identity(self) -> int:
        """31 bits that identify the media: equal for records of a set with the same ``image_id`` or, if there is none,
        with the same media."""
        named = f"{self.dataset}/{self.image_id}".encode()
        shown = named if self.image_id is not None else b"".join(key_of(medium.data) for medium in self.media)
        return int.from_bytes(hashlib.blake2b(shown, digest_size=4).digest(), "little") >> 1

    def to_json(self) -> str:
        """Everything except the media's bytes, without empty fields; "kinds" are those of the media."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "media"}
        fields["kinds"] = tuple(medium.kind for medium in self.media)
        kept = {name: value for name, value in fields.items() if name in _NEEDED or value not in (None, (), {})}
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, media: Sequence[bytes]) -> "Record":
        """The inverse of `to_json`. Without "kinds", as before version 3.0.0, all media are images.

        Raises ValueError if the number of media is not that of the kinds.
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
