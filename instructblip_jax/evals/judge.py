"""Predictions as self-contained JSON lines, and the result of a set computed from them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from instructblip_jax.data.questions import Questions
from instructblip_jax.data.record import Record, key_of
from instructblip_jax.evals import recall
from instructblip_jax.evals.metrics import METRICS, as_dict
from instructblip_jax.evals.pairs import GROUPS, Pair, Prediction, Reference, reference_of
from instructblip_jax.evals.suite import RETRIEVAL, EvalSpec
from instructblip_jax.evals.table import SetResult


def adapted(spec: EvalSpec, asked: Questions, changes: Mapping[str, Any]) -> tuple[EvalSpec, list[str]]:
    """The spec adapted to the records of the set, and notes about it.

    A set that contains only captions is scored by CIDEr unless ``changes`` (config.evaluation.settings) name a metric.
    """
    notes = []
    if asked.captions and spec.mode != RETRIEVAL:
        if "metric" not in changes:
            spec = dataclasses.replace(spec, metric="cider")
        notes.append(
            f"metric {spec.metric}: its {len(asked.source):,} records are captions, of {len(asked):,} pictures, "
            "each judged once by all of its captions"
        )
    if asked.dialogues:
        notes.append(
            f"{asked.dialogues:,} dialogues are asked turn by turn, after what was said before: {len(asked):,} rows"
        )
    return spec, notes


def line(record: Record, instruction: str, seen: Prediction, unseen: Prediction | None, **more: Any) -> str:
    """A prediction with its question and everything needed to score it, as JSON.

    "media" are digests of the encoded media (`record.key_of`). ``seen``: the prediction; ``unseen``: the one with
    blanked images, if there is one; ``more``: further fields.
    """
    fields: dict[str, Any] = {"uid": record.uid, "instruction": instruction, **more}
    fields |= {"prediction": seen.text, "scores": seen.scores}
    if unseen is not None:
        fields |= {"blind": unseen.text, "blind_scores": unseen.scores}
    fields["media"] = tuple(key_of(medium.data).hex() for medium in record.media)
    fields |= {"question_id": record.question_id, "image_id": record.image_id}
    known = reference_of(record)
    judged_by = ("answers", "candidates", "label", "relevance", "difficult")
    fields |= {name: getattr(known, name) for name in judged_by} | {"group": known.group or None}
    stated = {name: value for name, value in fields.items() if value is not None and value is not False and value != ()}
    return json.dumps({**stated, "answers": known.answers, **known.groups}, ensure_ascii=False)


def reference(fields: Mapping[str, Any], spec: EvalSpec) -> Reference:
    """The reference in a parsed `line`."""
    return Reference(
        uid=fields["uid"],
        answers=tuple(fields["answers"]),
        # A binary prediction has one score, that of "yes", and none for each candidate.
        candidates=() if spec.mode == "binary" else tuple(fields.get("candidates", ())),
        label=fields.get("label"),
        relevance=tuple(fields.get("relevance", ())),
        groups={name: fields[name] for name in GROUPS if name in fields},
        difficult=fields.get("difficult", False),
        group=fields.get("group", ""),
    )


def judged(
    half: str,
    spec: EvalSpec,
    answers: Sequence[Mapping[str, Any]],
    paper: float | None = None,
    notes: Sequence[str] = (),
) -> SetResult:
    """The result of a set, from the parsed `line`s of its predictions.

    Args:
      half: "held_in" or "held_out".
      paper: the paper's result, times 100.
      notes: notes to print below the table.
    """
    if spec.mode == RETRIEVAL:
        return recall.result(half, spec.split, answers, paper, notes)
    both = [(fields, reference(fields, spec)) for fields in answers]
    known = [(fields, own) for fields, own in both if own.answers or own.label is not None]
    details: dict[str, Any] = {"judging": vars(spec), "notes": list(notes)}
    unjudged = SetResult(half, spec.metric, None, len(answers), data_split=spec.split)
    if not known:
        return dataclasses.replace(unjudged, details=details | {"reason": "a blind split"})
    if len(known) < len(both):
        details["notes"].append(
            f"{len(both) - len(known):,} of {len(both):,} have no answer to be judged by, and are left out"
        )

    def pairs(text: str, scores: str) -> list[Pair]:
        return [(Prediction(fields[text], tuple(fields.get(scores, ()))), own) for fields, own in known]

    result = as_dict(spec.metric, pairs("prediction", "scores"))
    return dataclasses.replace(
        unjudged,
        value=result["value"],
        count=result["count"],
        blind=METRICS[spec.metric](pairs("blind", "blind_scores")).value if "blind" in known[0][0] else None,
        interval=result["interval"],
        paper=None if paper is None else paper / 100,
        details={**result["details"], **details} | ({"reason": result["reason"]} if "reason" in result else {}),
    )
