"""LLaVA's conversations: turns and images -> token ids, and labels for the loss.

The templates are those of LLaVA's public training code: v0 is 1.0's, v1 is Vicuna's in 1.5 ("vicuna_v1"), and plain is
stage 1's, an image and its caption. Special tokens are inserted by id, so a text that spells one stays text. The text
between two of them is tokenized as a whole, and the loss is assigned by the tokens' character positions.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from instructblip_jax.processors.base import IGNORE
from instructblip_jax.processors.tokenizer import TextTokenizer

Turns = Sequence[tuple[str, str | None]]
"""(question, answer) pairs; None as the last answer means that it is to be generated."""
Piece = str | int
"""A text, or the id of a special token."""
Tokens = tuple[np.ndarray, np.ndarray]
"""Ids int32 [n], with one id per image, and bool [n]: true for tokens in the loss."""


def _system(person: str) -> str:
    return (
        f"A chat between a curious {person} and an artificial intelligence assistant. The assistant gives helpful, "
        f"detailed, and polite answers to the {person}'s questions."
    )


def _question(turns: Turns, number: int, pictures: Sequence[int]) -> list[Piece]:
    """A turn's question; in the first turn after the images (their ids), each on its own line."""
    question = turns[number][0]
    if number or not pictures:
        return [question]
    asked = question.strip()
    pieces = [piece for picture in pictures for piece in (picture, "\n")]
    return [*pieces, asked] if asked else pieces[:-1]


def _tokens(tokenizer: TextTokenizer, parts: Sequence[tuple[Piece, bool]]) -> Tokens:
    """Pieces, each with True if it counts in the loss -> tokens; a token counts if its last character does."""
    ids, ends = tokenizer.joined([piece for piece, _ in parts])
    bounds = np.cumsum([len(piece) if isinstance(piece, str) else 1 for piece, _ in parts])
    counts = np.array([counted for _, counted in parts])
    return ids, counts[np.searchsorted(bounds, ends)] & (ends > 0)  # the begin token ends at 0


def _v1(tokenizer: TextTokenizer, turns: Turns, pictures: Sequence[int], end_id: int) -> Tokens:
    """The loss covers each answer, from the blank before it, and the end token after it."""
    parts: list[tuple[Piece, bool]] = [(_system("user") + " ", False)]
    for number, (_, answer) in enumerate(turns):
        asked = ["USER: ", *_question(turns, number, pictures), " ASSISTANT:"]
        parts += [(piece, False) for piece in asked]
        if answer is not None:
            parts += [(f" {answer}", True), (end_id, True)]
    return _tokens(tokenizer, parts)


def _v0(tokenizer: TextTokenizer, turns: Turns, pictures: Sequence[int], end_id: int) -> Tokens:
    """The training text if all answers are given, otherwise the prompt for an answer, without loss.

    The two differ as in the authors' code, and so does the loss. That code skips a question except for its first two
    tokens, and counts by the lengths of separately tokenized sentences. Each of these has a begin token, so every
    boundary is shifted by one token for each sentence before it.
    """
    system = _system("human")
    if turns[-1][1] is None:
        said: list[Piece] = [f"{system}###"]
        for number, (_, answer) in enumerate(turns):
            said += ["Human: ", *_question(turns, number, pictures), "###Assistant:"]
            said += [] if answer is None else [f" {answer}###"]
        return _tokens(tokenizer, [(piece, False) for piece in said])
    sentences: list[list[Piece]] = [[f"{system}\n\n"]]
    for number, (_, answer) in enumerate(turns):
        sentences.append(["### Human: ", *_question(turns, number, pictures), "\n"])
        sentences.append([f"### Assistant: {answer}\n"])
    lengths = [len(tokenizer.joined(sentence)[0]) for sentence in sentences]
    starts = np.cumsum(lengths)
    ids, _ = tokenizer.joined([piece for sentence in sentences for piece in sentence] + ["### "])
    counted = np.arange(len(ids)) >= starts[0]
    for start, length in zip(starts[:-1:2], lengths[1::2], strict=True):  # the questions
        counted[start + 2 : start + length] = False
    return ids, counted


def _plain(tokenizer: TextTokenizer, turns: Turns, pictures: Sequence[int], end_id: int) -> Tokens:
    """The images, and a caption with its line end, both in the loss; the question is left out."""
    if len(turns) > 1:
        raise ValueError(
            f"{len(turns)} turns, but the conversation 'plain' has only a caption; "
            "config.system.conversation='v1' has turns"
        )
    caption = turns[0][1]
    said = [] if caption is None else [(f"{caption}\n", True)]
    return _tokens(tokenizer, [*((picture, False) for picture in pictures), *said])


TEMPLATES: Mapping[str, Callable[[TextTokenizer, Turns, Sequence[int], int], Tokens]] = {
    "v0": _v0,
    "v1": _v1,
    "plain": _plain,
}


def encode(
    tokenizer: TextTokenizer, template: str, turns: Turns, pictures: int, slots: int, image_id: int, end_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """A conversation's ids and labels, int32 [n] each; labels are -100 outside the loss.

    The tokens that begin a text (``<s>``) occur only at the start. A last answer of None gives the prompt for it.

    Args:
      template: a key of `TEMPLATES`.
      pictures: number of images. They precede the first question, wherever its text refers to them.
      slots: number of ``image_id`` placeholders per image.
      end_id: ends each answer in v1.

    Raises ValueError for an unknown template, for no turns or too many, and for a turn without an answer.
    """
    if template not in TEMPLATES:
        raise ValueError(f"conversation is {template!r}; it is one of {', '.join(TEMPLATES)}")
    if not turns:
        raise ValueError("a conversation needs one turn at least")
    for number, (_, answer) in enumerate(turns, 1):
        if not answer and (answer is not None or number < len(turns)):
            raise ValueError(f"turn {number} of {len(turns)} has no answer; only the last one may lack it (None)")
    ids, counted = TEMPLATES[template](tokenizer, turns, [image_id] * pictures, end_id)
    places = ids == image_id
    labels = np.where(counted & ~places, ids, np.int32(IGNORE))
    times = np.where(places, slots, 1)
    return np.repeat(ids, times), np.repeat(labels, times)


def ready(tokenizer: TextTokenizer, text: str, slots: int, image_id: int) -> np.ndarray:
    """A ready prompt's ids, int32 [n], as from Hugging Face's LLaVA processor: special tokens in the text are
    recognised, and each image token is repeated ``slots`` times."""
    mark = tokenizer.token(image_id)
    return tokenizer.ready(text.replace(mark, mark * slots))
