"""Questions about a caption: an answer from its words, a question for it, and two checks (as in X-InstructBLIP, arXiv
2311.18799, with our own prompts)."""

from collections.abc import Mapping, Sequence

from instructblip_jax.asking.ratio import found
from instructblip_jax.asking.writer import Write

COLOURLESS = "Rewrite this description without naming any colour: {caption}"
ANSWER = "Description: {caption} Which single word of the description could be the answer to a question? Word:"
QUESTION = "Description: {caption} Write a question about the description whose answer is {answer}. Question:"
AGAIN = "Description: {caption} Question: {question} Answer:"
MORE_THAN = 10
"""Captions of 3D models with at most this number of words are left out."""


def rows(write: Write, captions: Sequence[str], *, shapes: bool) -> list[dict[str, str]]:
    """Rows generated from the captions: "question", "answer", "extractive" (the answer is in the caption) and "correct"
    (the model finds it again), "True" or "False". With ``shapes``, colours are removed from captions first
    ("caption_no_color"), and short ones have no question (an empty object)."""
    told = write([COLOURLESS.format(caption=caption) for caption in captions]) if shapes else list(captions)
    kept = [n for n, text in enumerate(told) if text and (not shapes or len(captions[n].split()) > MORE_THAN)]
    made: list[dict[str, str]] = [{} for _ in captions]
    answers = write([ANSWER.format(caption=told[n]) for n in kept])
    questions = write([QUESTION.format(caption=told[n], answer=a) for n, a in zip(kept, answers, strict=True)])
    again = write([AGAIN.format(caption=told[n], question=q) for n, q in zip(kept, questions, strict=True)])
    for n, answer, question, second in zip(kept, answers, questions, again, strict=True):
        if answer and question:
            made[n] = {
                **({"caption_no_color": told[n]} if shapes else {}),
                "question": question,
                "answer": answer,
                "extractive": str(found(answer, told[n])),
                "correct": str(found(answer, second)),
            }
    return made


def counted(made: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """The numbers of captions, of those with a question, and of those that pass each check and both."""
    asked = [row for row in made if row]
    passed = {name: [row[name] == "True" for row in asked] for name in ("extractive", "correct")}
    both = [all(pair) for pair in zip(*passed.values(), strict=True)]
    return {
        "captions": len(made),
        "questions": len(asked),
        **{name: sum(values) for name, values in passed.items()},
        "kept": sum(both),
    }
