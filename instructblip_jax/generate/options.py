"""How to generate: Hugging Face's names and meanings, checked, and split into what a compiled program is built for and
what it is given as numbers."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import jax

CAPACITY_STEP = 16
"""Room for new tokens comes in multiples of so many, so that few programs are compiled."""

_NUMBERS = (
    "max_new_tokens",
    "min_new_tokens",
    "length_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Checked options; build them with `Options.of`. The numbers may change from call to call without a compilation."""

    max_new_tokens: int
    min_new_tokens: int
    length_penalty: float
    repetition_penalty: float
    temperature: float
    top_p: float
    # What a program is compiled for:
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
    pad: int

    @classmethod
    def of(
        cls,
        *,
        ends: int | Iterable[int],
        pad: int,
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
        """Raises ValueError naming the option that cannot be.

        ``top_k`` (50, as in Hugging Face; 0 is off), ``top_p`` and ``temperature`` matter when sampling;
        ``length_penalty`` and ``early_stopping`` matter for beams.
        """
        tokens = (ends,) if isinstance(ends, int) else tuple(ends)
        for name, value, least in (
            ("max_new_tokens", max_new_tokens, 1),
            ("min_new_tokens", min_new_tokens, 0),
            ("num_beams", num_beams, 1),
            ("num_return_sequences", num_return_sequences, 1),
            ("top_k", top_k, 0),
            ("no_repeat_ngram_size", no_repeat_ngram_size, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; a whole number of at least {least} is needed")
        if min_new_tokens > max_new_tokens:
            raise ValueError(f"min_new_tokens {min_new_tokens} is more than max_new_tokens {max_new_tokens}")
        if not repetition_penalty > 0 or not temperature > 0:
            raise ValueError(
                f"repetition_penalty {repetition_penalty} and temperature {temperature} must be above 0; for the "
                "likeliest token at every step leave do_sample off"
            )
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p is {top_p}; it is a probability above 0 and up to 1")
        if early_stopping not in (True, False, "never"):
            raise ValueError(f"early_stopping is {early_stopping!r}; choose True, False or 'never'")
        if num_return_sequences > 1 and not do_sample and num_return_sequences > num_beams:
            raise ValueError(
                f"num_return_sequences {num_return_sequences} is more than num_beams {num_beams}; more beams or "
                "do_sample=True give several answers"
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
            ends=tokens,
            pad=pad,
        )

    @property
    def rows(self) -> int:
        """Continuations of each example that are worked on at a time."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences


jax.tree_util.register_dataclass(
    Options,
    data_fields=list(_NUMBERS),
    meta_fields=[field.name for field in dataclasses.fields(Options) if field.name not in _NUMBERS],
)
