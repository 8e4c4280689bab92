"""Reads LLaVA's training sets: JSON lists of conversations about images.

- LLaVA-Instruct-150K: detail_23k.json, conversation_58k.json and complex_reasoning_77k.json, one set each, and
  llava_instruct_150k.json, which has all three without distinguishing them. Images: COCO train2017.
- LLaVA-CC3M-Pretrain-595K (chat.json) and LCS-558K (blip_laion_cc_sbu_558k.json): an image and its caption each.
  The images may still be in images.zip.
- LLaVA-v1.5-mix665K (llava_v1_5_mix665k.json): images in folders of COCO, GQA, OCR-VQA, TextVQA and Visual Genome;
  some conversations have none.

One record per conversation, with all its pairs in ``turns``; the marker "<image>" and its line end are removed from the
questions. The source may be any file of this form.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Release, Rows, Skip
from instructblip_jax.datasets.readers import zips
from instructblip_jax.datasets.readers.fields import MISMATCH, BadRow, SourceRow, clean, full_text, ident, need, typed
from instructblip_jax.datasets.readers.json_files import elements
from instructblip_jax.datasets.readers.source_rows import Made, drafts, find, nonempty, places
from instructblip_jax.datasets.readers.stores import Store, coco_number, coco_picture, coco_store, store

ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")
MARKER = "<image>"
ARCHIVE = "images.zip"
OTHER_ENDINGS = ("gif", "png", "jpeg")
"""OCR-VQA's covers as downloaded; the mixture's authors saved all as .jpg."""
Find = Callable[[str], Media]
"""The value of a row's ``image`` -> the image."""
Picture = Callable[[Store, str], Media]
Stored = Callable[[Path, Sequence[Path]], Store]
"""(source, image roots) -> the location of the images."""


def unmarked(question: str) -> str:
    """A question without the "<image>" marker."""
    return clean(question.replace(f"{MARKER}\n", "").replace(f"\n{MARKER}", "").replace(MARKER, ""))


def _messages(row: SourceRow) -> tuple[list[str], tuple[str, ...]]:
    """The cleaned texts of ``conversations``, a question and its answer in turn; and notes.

    An answer before any question is left out, as in the authors' code. Raises BadRow unless the speakers alternate.
    """
    messages: list[str] = []
    notes: tuple[str, ...] = ()
    for number, turn in enumerate(typed(need(row, "conversations"), list, "conversations")):
        speaker = typed(need(typed(turn, dict, "conversations"), "from"), str, "from")
        if not number and speaker in ANSWERS:
            notes = ("answer before any question left out",)
            continue
        if speaker not in (ANSWERS if len(messages) % 2 else ASKS):
            raise BadRow("turns out of order", f"turn {number} is from {speaker[:20]}")
        messages.append(clean(typed(need(turn, "value"), str, "value")))
    if len(messages) % 2:
        raise BadRow("turns out of order", "the last question has no answer")
    if not messages or not all(messages[1::2]):
        raise BadRow("empty answer")
    return messages, notes


def _pairs(messages: Sequence[str]) -> tuple[tuple[str, str], ...]:
    questions = [unmarked(question) for question in messages[::2]]
    if not all(questions):
        raise BadRow("empty question")
    return tuple(zip(questions, messages[1::2], strict=True))


def pairs(row: SourceRow) -> tuple[tuple[str, str], ...]:
    """The (question, answer) pairs of ``conversations``, questions without the marker. Raises BadRow."""
    return _pairs(_messages(row)[0])


def _check_markers(questions: Sequence[str], pictures: int) -> None:
    """Raise BadRow unless the first question has a marker for each image, and no other question has one."""
    counts = [question.count(MARKER) for question in questions]
    if counts[0] != pictures or sum(counts) != pictures:
        shown = ", ".join(map(str, counts[:20]))
        raise BadRow(MISMATCH, f"{pictures} pictures, {MARKER} by question: {shown}")


def _rows(path: Path, name: str, task: str, find_picture: Find, marked: bool) -> Iterator[Draft | Skip]:
    """``marked``: markers must match the images; a row may have none."""
    seen: dict[int | str, int] = {}

    def make(row: SourceRow) -> Iterator[Made]:
        question_id = ident(row, "id")
        image = None if marked and row.get("image") is None else full_text(row, "image")
        messages, notes = _messages(row)
        if marked:
            _check_markers(messages[::2], int(image is not None))
        turns = _pairs(messages)
        media = () if image is None else (find_picture(image),)
        again = seen.get(question_id, 0)  # ids are image ids, and an image may have several conversations
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
            image_id=None if image is None else image.rsplit("/", 1)[-1].rsplit(".", 1)[0],
            question_id=question_id,
        )
        yield record, media, notes

    return drafts(elements(path), make)


def _coco(where: Store, image: str) -> Media:
    found = where.find(image)  # raises for a path that leaves the roots
    number = coco_number(image)
    return Media(found if number is None else coco_picture(where, number, "train2017"))


def _below(where: Store, image: str) -> Media:
    """An image in one folder with all others, which may be called images/, or in images.zip."""
    names = (image, f"images/{image}")
    found = where.find(*names)
    archive = where.find(ARCHIVE)
    packed = zips.member(archive, *names) if not found.is_file() and archive.is_file() else None
    return packed or Media(found)


def _mixed(where: Store, image: str) -> Media:
    """An image in its set's folder, such as gqa/images/1.jpg, or in a root that is this folder or its subfolder."""
    stem, dot, _ = image.rpartition(".")
    endings = OTHER_ENDINGS if dot and image.startswith("ocr_vqa/") else ()
    names = [image, *(f"{stem}.{ending}" for ending in endings)]
    return Media(where.find(*(name.split("/", depth)[-1] for depth in (0, 1, -1) for name in names)))


def _splits(
    name: str,
    file: str,
    task: str,
    stored: Stored,
    picture: Picture,
    marked: bool,
    source: Path,
    images: Sequence[Path],
) -> Mapping[str, Rows]:
    path = source if source.is_file() else find(source, *places(file))
    rows = partial(_rows, path, name, task, partial(picture, stored(source, images)), marked) if path else None
    return nonempty({"train": rows} if rows else {}, source, file)


def _set(
    name: str, file: str, task: str, stored: Stored = coco_store, picture: Picture = _coco, marked: bool = True
) -> Release:
    return Release(partial(_splits, name, file, task, stored, picture, marked))


def _beside(source: Path, images: Sequence[Path]) -> Store:
    return store(source, images, "images", "data", "..")


DETAIL = _set("llava_detail", "detail_23k.json", "open", marked=False)
CONVERSATION = _set("llava_conv", "conversation_58k.json", "dialog", marked=False)
REASONING = _set("llava_reason", "complex_reasoning_77k.json", "open", marked=False)
INSTRUCT = _set("llava_instruct_150k", "llava_instruct_150k.json", "dialog")
CC3M = _set("llava_cc3m_595k", "chat.json", "open", _beside, _below)
LCS = _set("llava_lcs_558k", "blip_laion_cc_sbu_558k.json", "open", _beside, _below)
MIX = _set("llava_v1_5_mix665k", "llava_v1_5_mix665k.json", "dialog", _beside, _mixed)
