"""Tokens and words out of a model: the public `generate_ids`, `generate` and `stream`."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from instructblip_jax.decoding.draws import Seed
from instructblip_jax.decoding.options import GenerationOptions, Options, check_names
from instructblip_jax.decoding.protocol import Model
from instructblip_jax.decoding.search import widths
from instructblip_jax.processors.base import BaseProcessor, Given
from instructblip_jax.systems.protocol import Forbids, Media

LENGTH_STEP = 16
"""Prompts are padded to a multiple of this many tokens, so that few programs are compiled."""


def options_for(model: Model, **given: Unpack[GenerationOptions]) -> Options:
    """Hugging Face's options for this model; without ``eos_token_id`` its own end tokens. Raises ValueError for values
    that cannot be, TypeError for no option."""
    check_names(given)
    config, options = model.config, dict[str, Any](given)
    eos_token_id = options.pop("eos_token_id", None)
    ends = config.end_ids if eos_token_id is None else eos_token_id
    if config.prompt_is_counted:
        options["penalize_prompt"] = True
    forbidden = config.forbidden_ids if isinstance(config, Forbids) else ()
    return Options.of(ends=ends, pad=config.pad_id, vocabulary=config.vocab_size, forbidden=forbidden, **options)


def generate_ids(
    model: Model,
    batch: Mapping[str, np.ndarray],
    *,
    media: Media | None = None,
    image: Any = None,
    seed: Seed = 0,
    **options: Unpack[GenerationOptions],
) -> np.ndarray:
    """Answers to a prepared batch: int32 [B * num_return_sequences, T], the prompt excluded, as long as the longest;
    what follows a row's end token is the padding id.

    Options are Hugging Face's: max_new_tokens (64), min_new_tokens, num_beams, length_penalty, repetition_penalty,
    no_repeat_ngram_size, early_stopping, do_sample, temperature, top_k, top_p, num_return_sequences, eos_token_id
    (one or several; by default the checkpoint's own). ``seed`` makes sampling repeatable;
    integers [B], one for each row, make it so whatever the other rows of the batch are.
    ``penalize_prompt``: the repetition penalty of a decoder-only model counts the prompt's tokens, too. ``media``: what
    `Model.encode` made, in place of the batch's own. Raises ValueError for options that cannot be.
    """
    chosen = options_for(model, **options)
    if image is not None:
        warnings.warn("generate_ids(image=...) is now media=model.encode(batch)", FutureWarning, stacklevel=2)
        media = {"image": image}
    return _answers(model, model.encode(batch) if media is None else media, batch, chosen, seed)


def _answers(model: Model, media: Media, batch: Mapping[str, np.ndarray], options: Options, seed: Seed) -> np.ndarray:
    """See `generate_ids`."""
    ids = model.search(model.prefill(media, batch), options, seed)
    flat = ids.reshape(-1, ids.shape[-1])
    return flat[:, : int(np.max(widths(flat, options)))]


def prepare(
    model: Model,
    processor: BaseProcessor,
    images: Given | Sequence[Given] | None,
    instructions: str | Sequence[str],
    media: Mapping[str, Any] | None = None,
) -> tuple[Media, dict[str, np.ndarray]]:
    """Media and instructions -> encoded media, one row an instruction, and the padded text of a batch.

    A picture that is given several times is encoded once. The language model reads instructions whole; other readers as
    much of them as the processor says.
    """
    texts = [instructions] if isinstance(instructions, str) else list(instructions)
    rows = processor.rows(images, len(texts), share=True, media=media)
    texts = processor.checked(texts, "instructions", len(rows))
    encoded = processor.encoded(rows, texts, [None] * len(texts))
    distinct = {id(row): row for row in rows}
    place = {key: n for n, key in enumerate(distinct)}
    shown = model.encode(processor.media_of(list(distinct.values())), place=np.array([place[id(row)] for row in rows]))
    longest = max(processor.lengths(row)[0] for row in encoded)
    return shown, processor.batch(encoded, -(-longest // LENGTH_STEP) * LENGTH_STEP, training=False)


def generate(
    model: Model,
    processor: BaseProcessor,
    images: Given | Sequence[Given] | None = None,
    instructions: str | Sequence[str] = "",
    *,
    media: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Unpack[GenerationOptions],
) -> list[str]:
    """Answers, one a pair of image and instruction (``num_return_sequences`` of them, best first, if that is asked).

    ``images``: one picture for all instructions, or one each (paths, bytes, PIL images, uint8 arrays [H, W, 3]; for
    video a file's path or bytes, or a sequence of pictures). ``media``: beside or instead of them, other modalities of
    systems that have any, as {"audio": [...], "pc": [...], "video": [...]} with an entry a row: None where a row has
    none, a list for several. A prompt has pictures first, then the modalities in this order. Options as `generate_ids`
    takes them. Raises UnusableImageError or UnusableMediaError for a medium that cannot be read, ValueError for an
    empty instruction, counts that do not match, or an option that cannot be.
    """
    chosen = options_for(model, **options)  # before any work
    shown, batch = prepare(model, processor, images, instructions, media)
    return processor.decode(_answers(model, shown, batch, chosen, seed))


def stream(
    model: Model,
    processor: BaseProcessor,
    image: Given | None = None,
    instruction: str = "",
    *,
    media: Mapping[str, Any] | None = None,
    every: int = 1,
    seed: int = 0,
    **options: Unpack[GenerationOptions],
) -> Iterator[str]:
    """One answer as it is written: pieces of text, which are the answer of `generate` when joined.

    ``media``: other modalities by name, one entry each, or a list of one. ``every``: tokens between
    pieces. Beam search yields a single piece, because until its end any beam may win.
    """
    chosen = options_for(model, **options)
    if chosen.num_return_sequences > 1:
        raise ValueError("a stream is one answer; leave num_return_sequences at 1")
    encoded, batch = prepare(model, processor, None if image is None else [image], [instruction], media)
    shown = text = ""
    for ids in model.search_steps(model.prefill(encoded, batch), chosen, seed, every):
        text = processor.decode(ids.reshape(1, -1))[0]
        settled = processor.settled(text)
        if len(settled) > len(shown):
            yield settled[len(shown) :]
            shown = settled
    if text != shown:
        yield text[len(shown) :]
