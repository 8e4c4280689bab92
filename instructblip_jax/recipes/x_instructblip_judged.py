"""X-InstructBLIP's evaluation by its authors (arXiv 2311.18799), for single and joint modalities, and their results."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Judged(NamedTuple):
    """Evaluation sets of one modality or several: held-in and held-out."""

    held_in: tuple[str, ...]
    held_out: tuple[str, ...]


JUDGED = {
    "image": Judged(("coco_caption", "okvqa"), ("nocaps", "flickr30k", "gqa", "vizwiz")),
    "video": Judged(("msrvtt_caption", "msrvtt_qa"), ("msvd_caption", "msvd_qa", "vatex")),
    "audio": Judged(("audiocaps",), ("clotho", "clotho_aqa", "esc50")),
    "pc": Judged(("cap3d", "cap3d_qa"), ("modelnet40",)),
    "joint": Judged((), ("music_avqa", "discrn_av", "discrn_i3d")),
}
"""Modality -> its sets; "joint" needs a model of several modalities."""

_CAPTION: Mapping[str, Any] = {"prompt": "a short description", "repetition_penalty": 1.15, "num_beams": 5}
_ABOUT_PICTURES = {"prompt": "based on the given image respond to {question}"}
SETTINGS: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(("coco_caption", "nocaps", "flickr30k"), _CAPTION),
    **dict.fromkeys(("okvqa", "gqa", "vizwiz"), _ABOUT_PICTURES),
    "msvd_qa": {"prompt": "Question: {question} Answer:", "mode": "generate"},
    "msrvtt_qa": {"prompt": "based on the given video respond to {question}", "mode": "generate"},
}
"""Set -> differences from `evals.suite.SUITE`, if that has another paper's evaluation."""

PAPER: dict[str, dict[str, float]] = {
    "x-instructblip-7b": {"modelnet40": 62.8, "discrn_av": 34.0},
    "x-instructblip-13b": {"music_avqa": 44.5},
}
"""Model -> set -> the paper's number, times 100, where other papers agree on it, because its tables were not available.
DisCRn's is for the media order of its code, and counts answers that name no side as wrong."""


def settings_of(sets: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The settings of ``sets``, in the form of config.evaluation.settings."""
    return {name: dict(SETTINGS[name]) for name in sets if name in SETTINGS}
