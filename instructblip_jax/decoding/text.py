"""Tokens and words out of a model: the public `generate_ids`, `generate` and `stream`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from instructblip_jax.decoding.options import Options
from instructblip_jax.decoding.search import widths

LENGTH_STEP = 16
"""Instructions are padded to multiples of so many tokens, so that few programs are compiled."""


def options_for(model: Any, *, eos_token_id: int | Sequence[int] | None = None, **options: Any) -> Options:
    """Hugging Face's options for this model; without ``eos_token_id`` its own end tokens. Raises ValueError for values
    that cannot be, TypeError for no option."""
    text = model.config.text
    ends = text.eos_token_id if eos_token_id is None else eos_token_id
    if not model.config.decoder_only:
        options["penalize_prompt"] = True  # T5's is the start token alone
    return Options.of(ends=ends, pad=text.pad_token_id, vocabulary=text.vocab_size, **options)


def generate_ids(
    model: Any, batch: Mapping[str, np.ndarray], *, image: Any = None, seed: int = 0, **options: Any
) -> np.ndarray:
    """Answers to a prepared batch: int32 [B * num_return_sequences, T], the prompt excluded, as long as the longest;
    what follows a row's end token is the padding id.

    Options are Hugging Face's: max_new_tokens (64), min_new_tokens, num_beams, length_penalty, repetition_penalty,
    no_repeat_ngram_size, early_stopping, do_sample, temperature, top_k, top_p, num_return_sequences, eos_token_id
    (one or several; by default the checkpoint's own). ``seed`` makes sampling repeatable.
    ``penalize_prompt``: the repetition penalty of a decoder-only model counts the prompt's tokens, too. ``image``: what
    `InstructBlip.encode_image` made, in place of the batch's pixels. Raises ValueError for options that cannot be.
    """
    chosen = options_for(model, **options)
    return _answers(model, model.encode_image(batch["pixel_values"]) if image is None else image, batch, chosen, seed)


def _answers(model: Any, image: Any, batch: Mapping[str, np.ndarray], options: Options, seed: int) -> np.ndarray:
    """See `generate_ids`."""
    ids = model.search(model.read(image, batch), options, seed)
    ids = ids.reshape(-1, ids.shape[-1])
    return ids[:, : int(np.max(widths(ids, options)))]


def prepare(model: Any, processor: Any, images: Any, instructions: str | Sequence[str]) -> tuple[Any, dict]:
    """Pictures and instructions -> image tokens, one row an instruction, and the padded text of a batch.

    A picture that is given several times is encoded once. The language model reads instructions whole; the Q-Former as
    much of their ends as it has positions for.
    """
    texts = [instructions] if isinstance(instructions, str) else list(instructions)
    rows = processor.rows(images, len(texts), share=True)
    encoded = [processor.encode(text) for text in processor.checked(texts, "instructions", len(rows))]
    distinct = {id(row): row for row in rows}
    place = {key: n for n, key in enumerate(distinct)}
    tokens = model.encode_image(processor.pixels(list(distinct.values())))
    longest = max(len(ids) for row in encoded for ids in row.values())
    batch = processor.pad(encoded, processor.lengths(encoded[0], -(-longest // LENGTH_STEP) * LENGTH_STEP))
    return tokens[np.array([place[id(row)] for row in rows])], batch


def generate(
    model: Any, processor: Any, images: Any, instructions: str | Sequence[str], *, seed: int = 0, **options: Any
) -> list[str]:
    """Answers, one a pair of image and instruction (``num_return_sequences`` of them, best first, if that is asked).

    ``images``: one picture for all instructions, or one each (paths, bytes, PIL images, uint8 arrays [H, W, 3]; for
    video a sequence of those). Options as `generate_ids` takes them. Raises UnusableImageError for a picture that
    cannot be read, ValueError for an empty instruction, counts that do not match, or an option that cannot be.
    """
    chosen = options_for(model, **options)  # before any work
    image, batch = prepare(model, processor, images, instructions)
    return processor.decode(_answers(model, image, batch, chosen, seed))


def stream(
    model: Any, processor: Any, image: Any, instruction: str, *, every: int = 1, seed: int = 0, **options: Any
) -> Iterator[str]:
    """One answer as it is written: pieces of text, which make the answer of `generate` when joined.

    ``every``: tokens between pieces. Beams are told at the end only, for until then any of them may be the answer.
    """
    chosen = options_for(model, **options)
    if chosen.num_return_sequences > 1:
        raise ValueError("a stream is one answer; leave num_return_sequences at 1")
    tokens, batch = prepare(model, processor, [image], [instruction])
    told = text = ""
    for ids in model.search_steps(model.read(tokens, batch), chosen, seed, every):
        text = processor.decode(ids.reshape(1, -1))[0]
        settled = processor.settled(text)
        if len(settled) > len(told):
            yield settled[len(told) :]
            told = settled
    if text != told:
        yield text[len(told) :]
