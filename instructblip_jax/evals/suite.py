"""The evaluation of each known set: split, metric and mode, after arXiv 2305.06500 (section 3 and appendix).

Where the paper leaves a choice, we take the defaults of its published code: a repetition penalty of 1.5, captions of 10
to 80 tokens. The score of a binary task is the log odds of yes against no.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from instructblip_jax.evals.metrics import METRICS

RETRIEVAL = "retrieval"
MODES = ("generate", "rank", "vocabulary", "binary", "classify", RETRIEVAL)


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """The evaluation of one dataset.

    Attributes:
      split: the split to evaluate, or several joined by "+".
      metric: a name of `metrics.METRICS`.
      mode: "generate" a text, "rank" the record's candidates, rank the set's "vocabulary", or "binary", yes against no;
        "classify" into the system's own classes, which the candidates name; "retrieval" of images and texts.
      prompt: a `str.format` text over the record's slots; None is the set's own, in `datasets.prompts.PROMPTS`.
      length_penalty: None is -1 for an encoder-decoder and 0 for a decoder-only model, as for all short answers.
      candidate: a `str.format` text around each candidate for ranking; metrics and predictions omit it.
      include_end: count the end token in a candidate's score.
      rerank: in retrieval, the number of candidates, best by similarity, that are re-ranked by matching; 0 for none.
      support: the split that few-shot examples are taken from (config.evaluation.shots), or SET:SPLIT for a split of
        another set.
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
    candidate: str = "{}"
    include_end: bool = True
    rerank: int = 128
    support: str = "train"


_SHORT: dict[str, Any] = {
    "num_beams": 5,
    "max_new_tokens": 10,
    "min_new_tokens": 1,
    "length_penalty": None,
    "repetition_penalty": 1.5,
}
_CAPTION: dict[str, Any] = {**_SHORT, "max_new_tokens": 80, "min_new_tokens": 10, "length_penalty": 1.0}
_QUESTION: dict[str, Any] = {**_SHORT, "max_new_tokens": 30, "length_penalty": 1.0}
_SENSED: dict[str, Any] = {**_CAPTION, "repetition_penalty": 1.15}  # X-InstructBLIP's captions (arXiv 2311.18799)
_SIDE = EvalSpec("val+val_swapped", "which_side", **_SHORT)
_REASONED: dict[str, Any] = {"max_new_tokens": 1024}  # greedy, as in LLaVA's published evaluation of ScienceQA

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
    "nocaps": EvalSpec("val", "cider", **{**_CAPTION, "num_beams": 3}, support="coco_caption:train"),
    "flickr30k": EvalSpec("test", "cider", **_CAPTION),
    "gqa": EvalSpec("testdev_balanced", "gqa", **_SHORT, support="train_balanced"),
    "vsr": EvalSpec("zeroshot/test", "yes_no", **{**_SHORT, "num_beams": 1}, support="zeroshot/train"),
    "iconqa": EvalSpec("choose_txt/test", "accuracy", "rank", support="choose_txt/train"),
    "textvqa": EvalSpec("val", "vqa_accuracy_evalai", **_SHORT),
    "visdial": EvalSpec("val", "mrr", "rank"),
    "hateful_memes": EvalSpec("dev_seen+dev_unseen", "auc", "binary"),
    "vizwiz": EvalSpec("val", "vqa_accuracy_evalai", **_SHORT),
    "scienceqa": EvalSpec("test_img", "accuracy", "rank", support="train_img"),
    "msvd_qa": EvalSpec("test", "top1", "vocabulary"),
    "msrvtt_qa": EvalSpec("test", "top1", "vocabulary"),
    "ivqa": EvalSpec("test", "ivqa", **_SHORT),
    "coco_retrieval": EvalSpec("test", "recall", RETRIEVAL, rerank=256),  # BLIP-2 uses 128 for both sets
    "flickr30k_retrieval": EvalSpec("test", "recall", RETRIEVAL),
    "nlvr2": EvalSpec("test1", "nlvr2", "classify"),
    "snli_ve": EvalSpec("test", "accuracy", "classify"),
    "scienceqa_qcm_a": EvalSpec("test", "scienceqa", max_new_tokens=16),
    "scienceqa_qcm_ale": EvalSpec("test", "scienceqa", **_REASONED),
    "scienceqa_qcm_lea": EvalSpec("test", "scienceqa", **_REASONED),
    # Frozen (arXiv 2106.13884): the generated name, up to the end token, must match exactly.
    "open_ended_mi": EvalSpec("shots_5_ways_2", "top1", max_new_tokens=10),
    "real_name_mi": EvalSpec("shots_5_ways_2", "top1", max_new_tokens=10),
    "fast_vqa": EvalSpec("shots_5_ways_2", max_new_tokens=10),
    "guided_vqa": EvalSpec("shots_5_ways_2", max_new_tokens=10),
    # X-InstructBLIP. Classes can also be generated: settings {"mode": "generate", "metric": "named_class"}.
    "audiocaps": EvalSpec("test", "cider", **_SENSED),
    "clotho": EvalSpec("test", "cider", **_SENSED),
    "clotho_aqa": EvalSpec("test", "three_votes", **_SHORT),
    "esc50": EvalSpec("test", "accuracy", "rank", candidate="an audio of {}", include_end=False),
    "cap3d": EvalSpec("val", "cider", **_SENSED),
    "cap3d_qa": EvalSpec("val", **{**_SHORT, "max_new_tokens": 80}),
    "modelnet40": EvalSpec("test", "accuracy", "rank", candidate="a 3d model of a {}", include_end=False),
    "msrvtt_caption": EvalSpec("test", "cider", **_SENSED),
    "msvd_caption": EvalSpec("test", "cider", **_SENSED),
    "vatex": EvalSpec("val", "cider", **_SENSED),
    "music_avqa": EvalSpec("test", **_SHORT),
    "discrn_av": _SIDE,
    "discrn_i3d": _SIDE,
}
"""Set -> its evaluation. Web CapFilt and the LLaVA sets are used for training only."""


def eval_spec(name: str, split: str, max_new_tokens: int, changes: Mapping[str, Any]) -> EvalSpec:
    """The evaluation of a set: its entry in `SUITE`, or an unknown set by exact match on ``split``.

    ``changes``: fields of the spec to replace. Raises ValueError naming an unknown field or an impossible value.
    """
    base = SUITE.get(name, EvalSpec(split, max_new_tokens=max_new_tokens))
    kinds = {field.name: type(getattr(EvalSpec(), field.name)) for field in dataclasses.fields(EvalSpec)}
    where = f"config.evaluation.settings.{name}"
    if "way" in changes:  # its former name, read for one release
        warnings.warn(f"{where}.way is now called mode", FutureWarning, stacklevel=2)
        changes = {"mode" if field == "way" else field: value for field, value in changes.items()}
    for field, value in changes.items():
        if field not in kinds:
            raise ValueError(f"{where} has no field {field!r}; it has {', '.join(kinds)}")
        if kinds[field] is not type(None) and not isinstance(value, (kinds[field], int, type(None))):
            raise ValueError(f"{where}.{field} is {value!r}, not of type {kinds[field].__name__}")
    chosen = dataclasses.replace(base, **changes)
    if chosen.rerank is not None and chosen.rerank < 0:
        raise ValueError(f"{where}.rerank is {chosen.rerank}; it is 0, for no second ranking, or more")
    if chosen.mode == RETRIEVAL:
        return dataclasses.replace(chosen, metric="recall")
    if chosen.metric not in METRICS:
        raise ValueError(f"{where}.metric is {chosen.metric!r}; it is one of {', '.join(METRICS)}")
    if chosen.mode not in MODES:
        raise ValueError(f"{where}.mode is {chosen.mode!r}; it is one of {', '.join(MODES)}")
    return chosen
