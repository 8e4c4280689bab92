"""The fields of a run that say how it is evaluated."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
    """Prompts with worked examples, of which `EvaluationConfig.shots` gives the numbers; docs/few_shot.md.

    Attributes:
      seeds: supports that are drawn, one after the other; scores are means over them.
      selection: "random", or "rices": the examples whose pictures are most like the question's.
      pool: records of the training split that examples are taken from, 0 for all: one pool for all seeds, by
        similarity one for each.
      form: a name of `datasets.few_shot.FORMS`; "" is that of the system's paper.
      heading: stands before the whole prompt, in place of what the form puts there (Frozen's task induction).
      texts: at 0 shots, examples that are shown as text alone, before open-ended questions; -1 is the form's number.
      repeats: how many more times all examples are shown (Frozen).
      orders: orders of the examples, over which the scores of candidates are averaged; Flamingo takes 6.
      controls: "wrong", each example with the answer of another one, and "blank", all pictures blanked; each is
        answered and judged beside the prompt itself.
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
    """The suite: sets seen in training, sets that were not, and how they are answered.

    Attributes:
      held_in: sets that were seen in training.
      held_out: sets that were not.
      batch_size: questions a batch.
      max_new_tokens: longest answer on sets that are not in `evals.suite.SUITE`.
      blind: evaluate a second time with all pictures blanked; without ``shots``.
      shots: numbers of worked examples in the prompt, such as (0, 4, 8, 16, 32); () evaluates without examples.
      few_shot: how examples are chosen and shown.
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
