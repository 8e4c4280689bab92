"""Answers as lines of a file that is complete in itself, and the row of the table that is computed from them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from instructblip_jax.data.questions import Questions
from instructblip_jax.data.record import Record
from instructblip_jax.evals.metrics import METRICS, as_dict
from instructblip_jax.evals.pairs import GROUPS, Pair, Prediction, Reference, reference_of
from instructblip_jax.evals.suite import EvalSpec
from instructblip_jax.evals.table import Row


def settled(how: EvalSpec, asked: Questions, changes: Mapping[str, Any]) -> tuple[EvalSpec, list[str]]:
    """The way of judging a set once its records are known, and what is to be said of it: a set of nothing but captions
    is judged by CIDEr, unless ``changes`` (config.evaluation.settings) name another metric."""
    notes = []
    if asked.captions:
        if "metric" not in changes:
            how = dataclasses.replace(how, metric="cider")
        notes.append(
            f"metric {how.metric}: its {len(asked.source):,} records are captions, of {len(asked):,} pictures, "
            "each judged once by all of its captions"
        )
    if asked.dialogues:
        notes.append(
            f"{asked.dialogues:,} dialogues are asked turn by turn, after what was said before: {len(asked):,} rows"
        )
    return how, notes


def line(record: Record, instruction: str, seen: Prediction, unseen: Prediction | None) -> str:
    """A prediction beside what was asked and all that it is judged by, as JSON."""
    fields: dict[str, Any] = {"uid": record.uid, "instruction": instruction}
    fields |= {"prediction": seen.text, "scores": seen.scores}
    if unseen is not None:
        fields |= {"blind": unseen.text, "blind_scores": unseen.scores}
    fields |= {"question_id": record.question_id, "image_id": record.image_id}
    reference = reference_of(record)
    fields |= {name: getattr(reference, name) for name in ("answers", "candidates", "label", "relevance", "difficult")}
    said = {name: value for name, value in fields.items() if value is not None and value is not False and value != ()}
    return json.dumps({**said, "answers": reference.answers, **reference.groups}, ensure_ascii=False)


def _reference(fields: Mapping[str, Any], how: EvalSpec) -> Reference:
    return Reference(
        uid=fields["uid"],
        answers=tuple(fields["answers"]),
        candidates=()
        if how.mode == "binary"
        else tuple(fields.get("candidates", ())),  # there the score is that of yes
        label=fields.get("label"),
        relevance=tuple(fields.get("relevance", ())),
        groups={name: fields[name] for name in GROUPS if name in fields},
        difficult=fields.get("difficult", False),
    )


def judged(
    half: str,
    how: EvalSpec,
    answers: Sequence[Mapping[str, Any]],
    paper: float | None = None,
    notes: Sequence[str] = (),
) -> Row:
    """A set's row of the table, of its `line`s as they were read back.

    Args:
      half: "held_in" or "held_out".
      paper: the paper's number, times 100.
      notes: what else is to be told of the set.
    """
    both = [(fields, _reference(fields, how)) for fields in answers]
    known = [(fields, reference) for fields, reference in both if reference.answers or reference.label is not None]
    told: dict[str, Any] = {"judging": vars(how), "notes": list(notes)}
    row = Row(half, how.metric, None, len(answers), data_split=how.split)
    if not known:
        return dataclasses.replace(row, details=told | {"reason": "a blind split"})
    if len(known) < len(both):
        told["notes"].append(
            f"{len(both) - len(known):,} of {len(both):,} have no answer to be judged by, and are left out"
        )

    def pairs(text: str, scores: str) -> list[Pair]:
        return [(Prediction(fields[text], tuple(fields.get(scores, ()))), reference) for fields, reference in known]

    result = as_dict(how.metric, pairs("prediction", "scores"))
    return dataclasses.replace(
        row,
        value=result["value"],
        count=result["count"],
        blind=METRICS[how.metric](pairs("blind", "blind_scores")).value if "blind" in known[0][0] else None,
        interval=result["interval"],
        paper=None if paper is None else paper / 100,
        details={**result["details"], **told} | ({"reason": result["reason"]} if "reason" in result else {}),
    )
