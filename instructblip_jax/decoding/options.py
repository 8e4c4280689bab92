"""Generation options with Hugging Face's names and meanings: checked, and split into static and traced fields."""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

import numpy as np

CAPACITY_STEP = 16
"""The KV cache's capacity for new tokens is a multiple of this, so that few programs are compiled."""
MOST_TOKENS = MOST_SEQUENCES = 2**16
MOST_BEAMS = 2**10
"""Upper limits; beyond them a mistyped number would fill the memory or run for hours."""

NUMBERS = (
    "max_new_tokens",
    "min_new_tokens",
    "length_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
)
"""Traced fields: their values may change without a compilation; see `search`."""


class GenerationOptions(TypedDict, total=False):
    """The options of `generate`, `generate_ids` and `stream`; `Options.of` has their meanings and defaults."""

    max_new_tokens: int
    min_new_tokens: int
    num_beams: int
    num_return_sequences: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    length_penalty: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    early_stopping: bool | Literal["never"]
    penalize_prompt: bool
    eos_token_id: int | Sequence[int] | None


def check_names(options: Iterable[str]) -> None:
    """Raise TypeError for a name that is none of `GenerationOptions`, with the one that is meant, if it is close."""
    known = GenerationOptions.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise TypeError(
                f"{name} is no option: did you mean {close[0]}?"
                if close
                else f"{name} is no option; there are {', '.join(known)}"
            )


@dataclasses.dataclass(frozen=True)
class Options:
    """Checked options; make them with `Options.of`. ``ends``, ``forbidden`` and ``pad`` are token ids."""

    max_new_tokens: int
    min_new_tokens: int
    length_penalty: float
    repetition_penalty: float
    temperature: float
    top_p: float
    # Static fields, which a program is compiled for:
    capacity: int
    num_beams: int
    num_return_sequences: int
    do_sample: bool
    top_k: int
    nucleus: bool
    penalize: bool
    penalize_prompt: bool
    no_repeat_ngram_size: int
    early_stopping: bool | Literal["never"]
    ends: tuple[int, ...]
    forbidden: tuple[int, ...]
    pad: int

    @classmethod
    def of(
        cls,
        *,
        ends: int | Iterable[int],
        pad: int,
        vocabulary: int,
        forbidden: tuple[int, ...] = (),
        max_new_tokens: int = 64,
        min_new_tokens: int = 0,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
        early_stopping: bool | Literal["never"] = False,
        penalize_prompt: bool = False,
    ) -> "Options":
        """Check options and complete them.

        ``ends``: id or ids that end an answer, below ``vocabulary``; ``forbidden``: ids that none holds. ``top_k``
        (default 50, as in Hugging Face; 0 is off), ``top_p`` and ``temperature`` apply to sampling; ``length_penalty``
        and ``early_stopping`` to beam search.
        Raises ValueError naming the option whose value is not possible.
        """
        for name, count, least, most in (
            ("max_new_tokens", max_new_tokens, 1, MOST_TOKENS),
            ("min_new_tokens", min_new_tokens, 0, MOST_TOKENS),
            ("num_beams", num_beams, 1, MOST_BEAMS),
            ("num_return_sequences", num_return_sequences, 1, MOST_SEQUENCES),
            ("top_k", top_k, 0, None),
            ("no_repeat_ngram_size", no_repeat_ngram_size, 0, None),
        ):
            if not _whole(count) or count < least or (most is not None and count > most):
                wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
                raise ValueError(f"{name} is {count!r}; a whole number {wanted} is needed")
        if min_new_tokens > max_new_tokens:
            raise ValueError(f"min_new_tokens {min_new_tokens} is more than max_new_tokens {max_new_tokens}")
        if not _finite(length_penalty):
            raise ValueError(
                f"length_penalty is {length_penalty!r}; a finite number is needed: above 0 favors long answers in "
                "beam search, below 0 short ones"
            )
        if not _finite(repetition_penalty) or not np.float32(repetition_penalty) > 0:
            raise ValueError(
                f"repetition_penalty is {repetition_penalty!r}; a finite number above 0 is needed, 1 for none"
            )
        if not _finite(temperature) or not np.float32(temperature) > 0:
            raise ValueError(
                f"temperature is {temperature!r}; a finite number above 0 is needed; for the most likely token at "
                "every step, leave do_sample off"
            )
        if not _finite(top_p) or not 0 < top_p <= 1:
            raise ValueError(f"top_p is {top_p!r}; it must be a probability above 0, at most 1")
        if early_stopping not in (True, False, "never"):
            raise ValueError(f"early_stopping is {early_stopping!r}; it must be True, False or 'never'")
        if num_return_sequences > 1 and not do_sample and num_return_sequences > num_beams:
            raise ValueError(
                f"num_return_sequences {num_return_sequences} is more than num_beams {num_beams}; for several "
                "answers, use more beams or do_sample=True"
            )
        return cls(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            length_penalty=float(length_penalty),
            repetition_penalty=float(repetition_penalty),
            temperature=float(temperature),
            top_p=float(top_p),
            capacity=-(-max_new_tokens // CAPACITY_STEP) * CAPACITY_STEP,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            do_sample=bool(do_sample),
            top_k=top_k,
            nucleus=top_p < 1,
            penalize=repetition_penalty != 1,
            penalize_prompt=bool(penalize_prompt),
            no_repeat_ngram_size=no_repeat_ngram_size,
            early_stopping=early_stopping,
            ends=_tokens(ends, vocabulary),
            forbidden=forbidden,
            pad=pad,
        )

    @property
    def rows(self) -> int:
        """Number N of continuations of each example that are decoded together."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    """True for a number that is finite in float32, the type that programs use."""
    largest: Any = float(np.finfo(np.float32).max)
    return isinstance(value, Real) and not isinstance(value, bool) and -largest <= value <= largest


def _tokens(ends: Any, vocabulary: int) -> tuple[int, ...]:
    """One or several end tokens as a tuple. Raises ValueError for anything that is not a token id."""
    tokens = tuple(ends) if isinstance(ends, Iterable) and not isinstance(ends, str) else (ends,)
    if not tokens or not all(_whole(token) and 0 <= token < vocabulary for token in tokens):
        raise ValueError(
            f"eos_token_id is {ends!r}; a token id from 0 to {vocabulary - 1} is needed, or a list of them (by default "
            "the checkpoint's own; for answers of a fixed length, set min_new_tokens to max_new_tokens)"
        )
    return tuple(map(int, tokens))
