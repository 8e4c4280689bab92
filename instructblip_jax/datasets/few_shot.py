"""Prompts with worked examples before the question, in the forms of several systems' papers.

A text contains `MARK` at the position of an image. The tokens around images and after an image's text are not part of
it: the system's processor adds them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from instructblip_jax.data.record import Record
from instructblip_jax.data.templates import Templates, fields, instruction
from instructblip_jax.processors.base import MARK

CAPTION, SHORT = "task:caption", "task:vqa"


@dataclasses.dataclass(frozen=True)
class Form:
    """The form of a prompt.

    Attributes:
      questions: set, or "task:TASK", -> the question, a `str.format` text over the record's slots; other sets have the
        same question as without examples.
      around: adds the image to a text without a mark: a `str.format` text over ``asked``.
      answer: text between a question and its answer.
      end: text after an example's answer.
      heading: task -> text before the whole prompt; "" is for all other tasks.
      texts: at 0 shots, the number of text-only examples, without their images, for open-ended questions.
      stops: task -> texts at which a generated answer is cut.
      decoding: task -> fields of `evals.suite.EvalSpec` for open-ended questions.
    """

    questions: Mapping[str, str]
    around: str = MARK + "{asked}"
    answer: str = " "
    end: str = ""
    heading: Mapping[str, str] = dataclasses.field(default_factory=dict)
    texts: int = 0
    stops: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    decoding: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def asked(self, templates: Templates, record: Record, pictures: int) -> str:
        """The question of a record, with a mark for each of its ``pictures``.

        ``templates``: the set's own (`data.templates`), which provide the slot "question" if a record has none.
        """
        own = self.questions.get(record.dataset) or self.questions.get(f"task:{record.task}")
        if own is None:
            text = instruction(templates, record, 0)
        else:
            slots = {**record.slots}
            if "question" in fields(own) - slots.keys():
                slots["question"] = instruction(templates, record, 0)
            text = own.format(**slots)
        if MARK not in text:
            text = self.around.format(asked=text)
        return text.replace(MARK, MARK * pictures, 1)

    def begin(self, task: str) -> str:
        """The text at the start of a prompt for this task."""
        return self.heading.get(task, self.heading.get("", ""))

    def cut(self, task: str, text: str) -> str:
        """A generated answer, cut where it continues with another example."""
        ends = [place for stop in self.stops.get(task, ()) if (place := text.find(stop)) >= 0]
        return text[: min(ends)].strip() if ends else text


_ASKED = "Question: {question} Answer:"
_NEXT: Mapping[str, tuple[str, ...]] = {"caption": ("Output",), "vqa": ("Question", "Answer", "Short", ", ")}
_BEAMS: Mapping[str, Any] = {"num_beams": 3, "length_penalty": 0.0, "min_new_tokens": 0, "repetition_penalty": 1.0}
_WRITTEN = {"caption": {**_BEAMS, "max_new_tokens": 20}, "vqa": {**_BEAMS, "max_new_tokens": 5}}
_GREEDY = {**_BEAMS, "num_beams": 1, "max_new_tokens": 10}

FORMS: dict[str, Form] = {
    # arXiv 2204.14198, appendix: 3 beams, and two text-only examples instead of none.
    "flamingo": Form(
        {
            CAPTION: "Output:",
            SHORT: _ASKED,
            "hateful_memes": 'is an image with written: "{text}" on it. Is it hateful? Answer:',
        },
        texts=2,
        stops=_NEXT,
        decoding=_WRITTEN,
    ),
    # arXiv 2308.01390 and its public code, which joins examples by line ends.
    "open_flamingo": Form(
        {
            CAPTION: "Output:",
            SHORT: "Question:{question} Short answer:",
            "hateful_memes": "is an image with: '{text}' written on it. Is it hateful? Answer:",
        },
        answer="",
        end="\n",
        texts=2,
        stops=_NEXT,
        decoding=_WRITTEN,
    ),
    # arXiv 2306.16527; the wording of questions is from the public model's documentation.
    "idefics": Form(
        {
            CAPTION: f"Image to describe: {MARK} Description:",
            SHORT: f"Image to use: {MARK} {_ASKED}",
        },
        end="\n",
        heading={"vqa": "Instruction: provide an answer to the question. Use the image to answer.\n"},
        stops={"caption": ("Image to",), "vqa": ("Image to", "Question", "\n")},
        decoding=_WRITTEN,
    ),
    # arXiv 2302.14045, section 4: captions with 5 beams, answers greedily up to the end token.
    "kosmos": Form(
        {
            CAPTION: "An image of",
            SHORT: _ASKED,
            "hateful_memes": "Question: does this picture contain real hate speech? Answer:",
        },
        stops={"vqa": ("Question",)},
        decoding={"caption": {**_BEAMS, "num_beams": 5, "max_new_tokens": 20}, "vqa": _GREEDY},
    ),
    # arXiv 2106.13884: captions follow only their image; greedy decoding.
    "frozen": Form(
        {CAPTION: "", SHORT: _ASKED},
        stops={"vqa": ("Question",)},
        decoding={"caption": {**_GREEDY, "max_new_tokens": 20}, "vqa": _GREEDY},
    ),
    # LLaVA has no published form; turns of its conversation, with version 1.5's prompt for short answers.
    "llava": Form(
        {SHORT: "{question}\nAnswer the question using a single word or phrase."},
        around=f"USER: {MARK}\n{{asked}} ASSISTANT:",
        end="</s>",
        heading={
            "": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions. "
        },
        decoding={"caption": {**_GREEDY, "max_new_tokens": 64}, "vqa": _GREEDY},
    ),
}
"""Name (`processors.base.BaseProcessor.FEW_SHOT`) -> form."""
