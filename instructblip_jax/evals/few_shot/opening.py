"""Opens a set of the suite for few-shot evaluation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from instructblip_jax.data import prepared
from instructblip_jax.datasets.few_shot import FORMS, Form
from instructblip_jax.evals.few_shot.answers import Task
from instructblip_jax.evals.open_set import OpenSet
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.run.evaluation import EvaluationConfig


def form_of(processor: BaseProcessor, name: str) -> Form:
    """The prompt form of that name, or, for "", of the system's paper. Raises ValueError if there is none."""
    if not processor.FEW_SHOT:
        raise ValueError(
            "config.evaluation.shots: this system takes one picture per row, so it cannot show examples; leave "
            "config.evaluation.shots out"
        )
    if (name or processor.FEW_SHOT) not in FORMS:
        raise ValueError(f"config.evaluation.few_shot.form is {name!r}; there are {', '.join(FORMS)}")
    return FORMS[name or processor.FEW_SHOT]


def open_task(
    directory: str, opened: OpenSet, processor: BaseProcessor, suite: EvaluationConfig, changes: Mapping[str, Any]
) -> Task:
    """The set with the source of its examples, with the generation settings of the form's paper.

    Args:
      directory: of the prepared sets.
      changes: fields of its `EvalSpec` set by config.evaluation.settings, which take precedence.

    Raises FileNotFoundError or ValueError for a set without a training split of its own.
    """
    form = form_of(processor, suite.few_shot.form)
    first = opened.asked[0]
    if opened.spec.mode == "generate":
        decoding = {name: x for name, x in form.decoding.get(first.task, {}).items() if name not in changes}
        opened = opened._replace(spec=dataclasses.replace(opened.spec, **decoding))
    if first.parts:  # it contains its own
        return Task(opened, form, suite, None)
    name, split = opened.name.partition(":")[0], opened.spec.support
    if ":" in split:
        name, split = prepared.split_of(split, "train")
    where = f"config.evaluation.settings.{opened.name}.support"
    if name == opened.name.partition(":")[0] and set(split.split("+")) & set(opened.spec.split.split("+")):
        raise ValueError(f"{where} is {split!r}, the split that is evaluated: name another split, or SET:SPLIT")
    try:
        return Task(opened, form, suite, prepared.open_set(directory, name, split))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{error}; examples are taken from the split in {where}, which may name another") from error
