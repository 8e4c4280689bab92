"""Token for token what transformers generates, on random prompts. Skipped where torch is not installed."""

import numpy as np
import pytest

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import families
import reference

LENGTH = 20
RUNS = (
    {},
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": 8},
    *({"num_beams": 5, "length_penalty": penalty} for penalty in (-1.0, 0.0, 1.0, 2.0)),
    {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0},
    {"num_beams": 5, "min_new_tokens": 8},
    {"num_beams": 5, "min_new_tokens": 8, "repetition_penalty": 1.5, "length_penalty": -1.0, "no_repeat_ngram_size": 3},
    {"num_beams": 3, "early_stopping": True, "length_penalty": -1.0, "num_return_sequences": 3},
    {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0, "num_return_sequences": 2},
)
BATCHES, ROWS = 2, 8


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_token_is_the_references(family):
    model = families.model(family)
    theirs = reference.load(families.directory(family), dtype=reference.torch.float32)
    end = theirs.language_model.generation_config.eos_token_id
    ours = {"eos_token_id": end, "max_new_tokens": LENGTH, "penalize_prompt": True}
    cases, different, lengths = 0, [], set()
    for seed in range(BATCHES):
        batch = families.prompts(family, seed, ROWS)
        image = model.encode_image(batch["pixel_values"])
        for run in RUNS:
            want = reference.generate(theirs, batch, max_new_tokens=LENGTH, **run)
            got = ib.generate_ids(model, batch, image=image, **ours, **run)
            assert got.shape == want.shape
            pairs = [(families.until(a, end), families.until(b, end)) for a, b in zip(got, want, strict=True)]
            different += [(seed, run, *pair) for pair in pairs if pair[0] != pair[1]]
            lengths |= {len(row) for _, row in pairs}
            cases += len(pairs)
    assert not different
    assert cases >= 200
    assert len(lengths) > 8  # short answers, long ones, and some that were cut


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_prompt_is_not_penalized_unless_asked(family):
    model = families.model(family)
    if not model.config.decoder_only:
        pytest.skip("an encoder-decoder's prompt is never part of its answer")
    batch = families.prompts(family, 7)
    options = {"max_new_tokens": LENGTH, "repetition_penalty": 3.0, "eos_token_id": []}
    free, bound = (ib.generate_ids(model, batch, penalize_prompt=asked, **options) for asked in (False, True))
    assert not np.array_equal(free, bound)
    # By hand: the likeliest next token of the whole text so far, after the penalty of what was generated.
    text = {name: x[:1] for name, x in batch.items()}
    written: list[int] = []
    for _ in range(5):
        logits = np.array(model(text))[0, -1]
        seen = sorted(set(written))
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * 3.0, logits[seen] / 3.0)
        written.append(int(np.argmax(logits)))
        text["input_ids"] = np.concatenate([text["input_ids"], [[written[-1]]]], axis=1).astype(np.int32)
        text["attention_mask"] = np.pad(text["attention_mask"], ((0, 0), (0, 1)), constant_values=1)
    assert free[0, :5].tolist() == written


def test_generation_ends_where_the_checkpoint_does():
    """LLaMA's configuration names the wrong end token, its tokenizer the right one; OPT's names the newline."""
    for family, ours in (("llama", 2), ("opt", None), ("instructblip", 1)):
        named = families.raw(family)["text_config"]["eos_token_id"]
        end = families.model(family).config.text.eos_token_id
        assert end == (named if ours is None else ours)
        assert (end == named) == (family != "llama")
        batch = families.prompts(family, 8)
        free = ib.generate_ids(families.model(family), batch, max_new_tokens=30, eos_token_id=[])
        got = ib.generate_ids(families.model(family), batch, max_new_tokens=30)
        for row, whole in zip(got, free, strict=True):
            assert families.until(row, end) == families.until(whole, end)
