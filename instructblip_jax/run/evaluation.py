"""The fields of a run for its evaluation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
    """Prompts with worked examples, whose numbers are in `EvaluationConfig.shots`; see docs/few_shot.md.

    Attributes:
      seeds: number of supports drawn; scores are means over them.
      selection: "random", or "rices": the examples whose images are most similar to the question's.
      pool: number of records of the training split that examples are drawn from, 0 for all: one pool for all seeds, or
        with "rices" one for each.
      form: a name of `datasets.few_shot.FORMS`; "" is that of the system's paper.
      heading: text before the whole prompt, instead of the form's (Frozen's task induction).
      texts: number of text-only examples at 0 shots, before open-ended questions; -1 is the form's number.
      repeats: number of additional times that all examples are shown (Frozen).
      orders: number of orders of the examples over which candidate scores are averaged; Flamingo uses 6.
      controls: "wrong", each example with the answer of another one, and "blank", all images blanked; each is evaluated
        in addition to the prompt itself.
    """

    seeds: int = 3
    selection: Literal["random", "rices"] = "random"
    pool: int = 2048
    form: str = ""
    heading: str = ""
    texts: int = -1
    repeats: int = 0
    orders: int = 1
    controls: tuple[Literal["wrong", "blank"], ...] = ()

    def __post_init__(self) -> None:
        for name, least in {"seeds": 1, "pool": 0, "texts": -1, "repeats": 0, "orders": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"config.evaluation.few_shot.{name} is {getattr(self, name)}; it is {least} or more")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation suite: held-in and held-out sets, and the settings of their evaluation.

    Attributes:
      held_in: sets that were seen in training.
      held_out: sets that were not.
      batch_size: questions per batch.
      max_new_tokens: longest answer on sets that are not in `evals.suite.SUITE`.
      blind: evaluate a second time with all images blanked; not with ``shots``.
      shots: numbers of worked examples in the prompt, such as (0, 4, 8, 16, 32); () evaluates without examples.
      few_shot: selection and form of the examples.
      settings: set -> fields of `evals.suite.EvalSpec` that replace the set's own ("split", "prompt", "num_beams" ...).
    """

    held_in: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    batch_size: int = 64
    max_new_tokens: int = 64
    blind: bool = True
    shots: tuple[int, ...] = ()
    few_shot: FewShotConfig = FewShotConfig()
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
