"""A set of the suite, opened for evaluation: its questions, and how they are answered and scored."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from instructblip_jax.data import prepared
from instructblip_jax.data.questions import Questions, questions
from instructblip_jax.data.templates import Templates
from instructblip_jax.datasets.digits.prepare import SETS
from instructblip_jax.datasets.prompts import evaluation_templates
from instructblip_jax.evals.judge import adapted
from instructblip_jax.evals.predict import candidates
from instructblip_jax.evals.suite import SUITE, EvalSpec, eval_spec


class OpenSet(NamedTuple):
    """A set that can be evaluated.

    Attributes:
      name: NAME, or NAME:SPLIT.
      spec: how it is evaluated.
      identity: a digest of its prepared files.
      asked: its questions.
      templates: the prompts around them.
      vocabulary: candidates that all questions share; empty for most sets.
      notes: remarks for below the table.
    """

    name: str
    spec: EvalSpec
    identity: str
    asked: Questions
    templates: Templates
    vocabulary: Sequence[str]
    notes: Sequence[str]


def open_set(
    directory: str, name: str, changes: Mapping[str, Any], *, split: str | None, max_new_tokens: int
) -> OpenSet:
    """Open the set ``name`` of the prepared sets in ``directory``.

    Args:
      changes: fields of its `EvalSpec` to replace (config.evaluation.settings).
      split: the split of a set without an official one; None is "test", or "validation" if it has no test split.
      max_new_tokens: longest answer on a set without an official spec.

    Raises FileNotFoundError or ValueError for a set that cannot be evaluated.
    """
    spec, notes = eval_spec(name, split or "test", max_new_tokens, changes), []
    if name not in SUITE and split is None and "split" not in changes and prepared.is_prepared(directory, name):
        found = prepared.sizes(directory, name)
        chosen = next((candidate for candidate in ("test", "validation", "val") if candidate in found), None)
        if chosen is None:
            raise ValueError(
                f"{prepared.directory_of(directory, name)}: has no split for evaluation, only {', '.join(found)}; "
                "`instructblip prepare` with --validation 0.1 keeps one from training (with --overwrite if the set is "
                f"there already), or config.evaluation.settings.{name}.split names one"
            )
        if chosen != "test":
            notes.append(f"split {chosen}: it has no split test")
        spec = dataclasses.replace(spec, split=chosen)
    source = prepared.open_set(directory, name, spec.split)
    templates = evaluation_templates(name, spec.prompt)
    asked = questions(source, templates, known=name in SUITE or name in SETS)
    spec, more = adapted(spec, asked, changes)
    vocabulary = prepared.vocabulary(directory, name) if spec.mode == "vocabulary" else ()
    if spec.mode in ("rank", "vocabulary", "binary"):
        candidates(asked[0], spec.mode, vocabulary)
    return OpenSet(name, spec, source.identity, asked, templates, vocabulary, [*notes, *more])
