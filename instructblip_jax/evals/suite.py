"""How each known set is judged: split, metric and way of answering, after arXiv 2305.06500 (section 3 and appendix).

What the paper leaves open is our choice: a repetition penalty of 1.5 and captions of 10 to 80 tokens, the defaults of
the code that was published with it; of binary tasks the log odds of yes against no are the score.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from instructblip_jax.evals.metrics import METRICS

MODES = ("generate", "rank", "vocabulary", "binary")


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """How one data set is evaluated.

    Attributes:
      split: the one that is judged, or several joined by "+".
      metric: a name of `metrics.METRICS`.
      way: "generate"; "rank" a record's candidates; rank the set's "vocabulary"; or yes against no, "binary".
      prompt: a `str.format` text over the slots; None: the set's own, `data.prompts.PROMPTS`.
      length_penalty: None: -1 for an encoder-decoder and 0 for a decoder-only model, as for all short answers.
      include_end: whether a candidate's score counts its end token.
    """

    split: str = "test"
    metric: str = "exact_match"
    mode: str = "generate"
    prompt: str | None = None
    num_beams: int = 1
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    length_penalty: float | None = 1.0
    repetition_penalty: float = 1.0
    include_end: bool = True


_SHORT: dict[str, Any] = {
    "num_beams": 5,
    "max_new_tokens": 10,
    "min_new_tokens": 1,
    "length_penalty": None,
    "repetition_penalty": 1.5,
}
_CAPTION: dict[str, Any] = {**_SHORT, "max_new_tokens": 80, "min_new_tokens": 10, "length_penalty": 1.0}
_QUESTION: dict[str, Any] = {**_SHORT, "max_new_tokens": 30, "length_penalty": 1.0}

SUITE: dict[str, EvalSpec] = {
    "coco_caption": EvalSpec("test", "cider", **_CAPTION),
    "textcaps": EvalSpec("val_images", "cider", **_CAPTION),
    "vqav2": EvalSpec("val", "vqa_accuracy", **_SHORT),
    "okvqa": EvalSpec("val", "vqa_accuracy", **_SHORT),
    "aokvqa": EvalSpec("val", "aokvqa_da", **_SHORT),
    "ocrvqa": EvalSpec("test", "exact_match", **{**_SHORT, "num_beams": 1}),
    "vqav2_qg": EvalSpec("val", "rouge_l", **_QUESTION),
    "okvqa_qg": EvalSpec("val", "rouge_l", **_QUESTION),
    "aokvqa_qg": EvalSpec("val", "rouge_l", **_QUESTION),
    "nocaps": EvalSpec("val", "cider", **{**_CAPTION, "num_beams": 3}),
    "flickr30k": EvalSpec("test", "cider", **_CAPTION),
    "gqa": EvalSpec("testdev_balanced", "gqa", **_SHORT),
    "vsr": EvalSpec("zeroshot/test", "yes_no", **{**_SHORT, "num_beams": 1}),
    "iconqa": EvalSpec("choose_txt/test", "accuracy", "rank"),
    "textvqa": EvalSpec("val", "vqa_accuracy_evalai", **_SHORT),
    "visdial": EvalSpec("val", "mrr", "rank"),
    "hateful_memes": EvalSpec("dev_seen+dev_unseen", "auc", "binary"),
    "vizwiz": EvalSpec("val", "vqa_accuracy_evalai", **_SHORT),
    "scienceqa": EvalSpec("test_img", "accuracy", "rank"),
    "msvd_qa": EvalSpec("test", "top1", "vocabulary"),
    "msrvtt_qa": EvalSpec("test", "top1", "vocabulary"),
    "ivqa": EvalSpec("test", "ivqa", **_SHORT),
}
"""Set -> how it is judged. Web CapFilt and the three LLaVA sets are trained on only."""

_ORDER = (
    "nocaps", "flickr30k", "gqa", "vsr", "iconqa", "textvqa", "visdial", "hateful_memes", "vizwiz", "scienceqa",
    "msvd_qa", "msrvtt_qa", "ivqa",
)  # fmt: skip
PAPER: dict[str, dict[str, float]] = {
    model: dict(zip(_ORDER, numbers, strict=True))
    for model, numbers in {
        "instructblip-flan-t5-xl": (119.9, 84.5, 48.4, 64.8, 50.0, 46.6, 46.6, 56.6, 32.7, 70.4, 43.4, 25.0, 53.1),
        "instructblip-flan-t5-xxl": (120.0, 83.5, 47.9, 65.6, 51.2, 46.6, 48.5, 54.1, 30.9, 70.6, 44.3, 25.6, 53.8),
        "instructblip-vicuna-7b": (123.1, 82.4, 49.2, 54.3, 43.1, 50.1, 45.2, 59.6, 34.5, 60.5, 41.8, 22.1, 52.2),
        "instructblip-vicuna-13b": (121.9, 82.8, 49.5, 52.1, 44.8, 50.7, 45.4, 57.5, 33.4, 63.1, 41.2, 24.8, 51.0),
        "blip2-flan-t5-xl": (104.5, 76.1, 44.0, 60.5, 45.5, 43.1, 45.7, 53.0, 29.8, 54.9, 33.7, 16.2, 40.4),
        "blip2-flan-t5-xxl": (98.4, 73.7, 44.6, 68.2, 45.4, 44.1, 46.9, 52.0, 29.4, 64.5, 34.4, 17.4, 45.8),
    }.items()
}
"""Model -> set -> the paper's number, table 1, times 100 (VizWiz on its server's test-dev, here on val)."""


def eval_spec(name: str, split: str, max_new_tokens: int, changes: Mapping[str, Any]) -> EvalSpec:
    """How a set is judged: as `SUITE` has it, or for a set that is not known by exact match in ``split``; ``changes``
    of its fields on top. Raises ValueError naming a field that is not there or cannot be."""
    base = SUITE.get(name, EvalSpec(split, max_new_tokens=max_new_tokens))
    kinds = {field.name: type(getattr(EvalSpec(), field.name)) for field in dataclasses.fields(EvalSpec)}
    where = f"config.evaluation.settings.{name}"
    if "way" in changes:  # its name until 2026; to go with the next release
        warnings.warn(f"{where}.way is now called mode", FutureWarning, stacklevel=2)
        changes = {"mode" if field == "way" else field: value for field, value in changes.items()}
    for field, value in changes.items():
        if field not in kinds:
            raise ValueError(f"{where} has no field {field!r}; it has {', '.join(kinds)}")
        if kinds[field] is not type(None) and not isinstance(value, (kinds[field], int, type(None))):
            raise ValueError(f"{where}.{field} is {value!r}, not of type {kinds[field].__name__}")
    chosen = dataclasses.replace(base, **changes)
    if chosen.metric not in METRICS:
        raise ValueError(f"{where}.metric is {chosen.metric!r}; it is one of {', '.join(METRICS)}")
    if chosen.mode not in MODES:
        raise ValueError(f"{where}.mode is {chosen.mode!r}; it is one of {', '.join(MODES)}")
    return chosen
