"""Reads LLaVA-Instruct-150K: detail_23k.json, conversation_58k.json and complex_reasoning_77k.json, one set each.

One record per conversation, with all its pairs in ``turns``; the marker "<image>" and its line end are removed from the
questions. The merged llava_instruct_150k.json is not read, because it does not distinguish the three sets, but the
source may be any file of this form. Pictures: COCO train2017.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers.fields import BadRow, SourceRow, clean, full_text, ident, need, typed
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, coco_number, coco_picture, coco_store

ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")


def unmarked(question: str) -> str:
    """A question without the "<image>" marker."""
    return clean(question.replace("<image>\n", "").replace("\n<image>", "").replace("<image>", ""))


def pairs(row: SourceRow) -> tuple[tuple[str, str], ...]:
    """The (question, answer) pairs of ``conversations``. Raises BadRow unless the two speakers alternate."""
    messages = []
    for number, turn in enumerate(typed(need(row, "conversations"), list, "conversations")):
        speaker = typed(need(typed(turn, dict, "conversations"), "from"), str, "from")
        if speaker not in (ANSWERS if number % 2 else ASKS):
            raise BadRow("turns out of order", f"turn {number} is from {speaker[:20]}")
        words = typed(need(turn, "value"), str, "value")
        messages.append(clean(words) if number % 2 else unmarked(clean(words)))
    if len(messages) % 2:
        raise BadRow("turns out of order", "the last question has no answer")
    if not messages or not all(messages[1::2]):
        raise BadRow("empty answer")
    if not all(messages[::2]):
        raise BadRow("empty question")
    return tuple(zip(messages[::2], messages[1::2], strict=True))


def _rows(path: Path, name: str, task: str, where: Store) -> Iterator[Draft | Skip]:
    seen: dict[int | str, int] = {}

    def make(row: SourceRow) -> Iterator[Made]:
        question_id, image, turns = ident(row, "id"), full_text(row, "image"), pairs(row)
        where.find(image)  # raises for a path that leaves the roots
        number = coco_number(image)
        picture = where.find(image) if number is None else coco_picture(where, number, "train2017")
        again = seen.get(question_id, 0)  # ids are picture ids, and a picture may have several conversations
        seen[question_id] = again + 1
        record = Record(
            uid=f"{name}/train/{question_id}" + (f"#{again}" if again else ""),
            dataset=name,
            split="train",
            task=task,
            media=(),
            slots={},
            answers=(),
            turns=turns,
            image_id=image.rsplit("/", 1)[-1].rsplit(".", 1)[0],
            question_id=question_id,
        )
        yield record, (Media(picture),)

    return drafts(elements(path), make)


def _splits(name: str, file: str, task: str, source: Path, images: Sequence[Path]) -> Mapping[str, Rows]:
    path = source if source.is_file() else find(source, *places(file))
    where = coco_store(source, images)
    return nonempty({"train": partial(_rows, path, name, task, where)} if path else {}, source, file)


DETAIL = Release(partial(_splits, "llava_detail", "detail_23k.json", "open"))
CONVERSATION = Release(partial(_splits, "llava_conv", "conversation_58k.json", "dialog"))
REASONING = Release(partial(_splits, "llava_reason", "complex_reasoning_77k.json", "open"))
