"""Reads questions generated from captions by a language model: rows with question, answer and caption.

X-InstructBLIP (arXiv 2311.18799) also asks whether a caption describes the medium, in three of eleven visits: five
times out of eleven with its own caption, otherwise with that of another row. Here both are drawn when the set is
prepared: three of eleven questions are of this kind, each a separate record.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Media, Stream
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, full_text, one_line, text
from instructblip_jax.datasets.readers.json_files import Entry
from instructblip_jax.datasets.readers.source_rows import Made, answer_fields, drafts, numbered

HEARD = ("do you hear {}?", "is this {}?", "does the audio contain {}?")
SEEN = ("do you see {}?", "is this {}?", "does the 3d model contain {}?")
ASKED, OWN = 3 / 8, 5 / 11
"""Yes/no questions per other question, which gives 3 of 11; and the fraction of them whose answer is yes."""
LOST = ("false", "0")
"""Values of the columns "correct" and "extractive" of rows that did not pass these checks."""


def _draw(*what: object) -> float:
    """A number in 0..1 that depends only on ``what``."""
    digest = hashlib.blake2b("\n".join(map(str, what)).encode("utf-8", "replace"), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48


def rows(
    entries: Callable[[], Iterable[Entry]],
    name: str,
    split: str,
    shown: Callable[[SourceRow], tuple[str, tuple[Media, ...]]],
    wordings: Sequence[str],
    refused: Callable[[str], bool] = lambda answer: False,
) -> Stream:
    """The drafts of a split. All its captions are kept in memory.

    Args:
      entries: opens the rows.
      shown: a row -> the id of its subject, and its media.
      wordings: of the yes/no questions.
      refused: True for an answer that is left out.
    """
    captions = sorted(
        {
            one_line(row["caption"])
            for _, row in entries()
            if isinstance(row, dict) and isinstance(row.get("caption"), str)
        }
    )

    def make(row: SourceRow) -> Iterator[Made]:
        yield from _records(name, split, row, shown, wordings, captions, refused)

    return drafts(numbered(entries()), make)


def _records(
    name: str,
    split: str,
    row: SourceRow,
    shown: Callable[[SourceRow], tuple[str, tuple[Media, ...]]],
    wordings: Sequence[str],
    captions: Sequence[str],
    refused: Callable[[str], bool],
) -> Iterator[Made]:
    image_id, media = shown(row)
    number = row["number"]
    question, answer = full_text(row, "question").lower().replace("??", "?"), full_text(row, "answer").lower()
    if str(row.get("correct", "")).lower() in LOST:
        raise BadRow("the answer was not found again in the caption")
    if str(row.get("extractive", "")).lower() in LOST:
        raise BadRow("the answer is not in the caption")
    asked = {"": (question, answer)}
    if refused(answer):
        yield BadRow("an answer that says nothing", answer)
        asked = {}
    caption = one_line(text(row, "caption"))
    chance, own, other, wording = (_draw(name, split, number, what) for what in range(4))
    if chance < ASKED and caption:
        yes = own < OWN or len(captions) < 2
        place = int(other * (len(captions) - 1))
        said = caption if yes else captions[place + (captions[place] == caption)]
        said = said.lower().rstrip(".")
        asked["#yes_no"] = wordings[int(wording * len(wordings))].format(said), "yes" if yes else "no"
    for mark, (question, answer) in asked.items():
        record = Record(
            uid=f"{name}/{split}/{number}{mark}",
            dataset=name,
            split=split,
            task="vqa",
            media=(),
            slots={"question": question},
            image_id=image_id,
            question_id=number,
            **answer_fields((answer,)),
        )
        yield record, media
