"""Result files in the formats of the datasets' evaluation servers and of the caption tools."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Answer = Mapping[str, Any]
"""A parsed line of W/predictions: question_id, image_id, prediction."""


def _questions(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [{"question_id": one["question_id"], "answer": one["prediction"]} for one in answers]


def _pictures(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [{"image": one["image_id"], "answer": one["prediction"]} for one in answers]


def _captions(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [{"image_id": one["image_id"], "caption": one["prediction"]} for one in answers]


FORMATS: Mapping[str, Callable[[Sequence[Answer]], list[dict[str, Any]]]] = {
    "vqav2": _questions,
    "okvqa": _questions,
    "textvqa": _questions,
    "vizwiz": _pictures,
    "nocaps": _captions,
    "coco_caption": _captions,
    "textcaps": _captions,
    "flickr30k": _captions,
}
"""Set -> writer of the format that its evaluation server (VQAv2, TextVQA, VizWiz, NoCaps) or the caption tools read."""
