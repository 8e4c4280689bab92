"""Token for token what transformers generates, on random prompts. Skipped where torch is not installed."""

import numpy as np
import pytest

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import families
import reference

LENGTH = 20
STOPPING = {"num_beams": 4, "length_penalty": 2.0, "num_return_sequences": 2}
SHORT = ({}, {"num_beams": 5, "length_penalty": 1.0})
RUNS = (
    *SHORT,
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": 8},
    *({"num_beams": 5, "length_penalty": penalty} for penalty in (-1.0, 0.0, 2.0)),
    {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0},
    {"num_beams": 5, "min_new_tokens": 8},
    {"num_beams": 5, "min_new_tokens": 8, "repetition_penalty": 1.5, "length_penalty": -1.0, "no_repeat_ngram_size": 3},
    *({"early_stopping": kind, **STOPPING} for kind in (False, True, "never")),
)
ROWS = 16
WHOLE = ("instructblip", "llama")
"""An encoder-decoder and a decoder-only model for all options: these act on scores, whatever the model."""
REST = tuple(family for family in families.FAMILIES if family not in WHOLE)


@pytest.mark.parametrize(
    ("family", "runs"),
    [
        *((family, RUNS) for family in WHOLE),
        *((family, SHORT) for family in REST),
        *(pytest.param(family, RUNS, marks=pytest.mark.reference) for family in REST),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} runs",
)
def test_every_token_is_the_references(family, runs):
    # Both forms of the layers: in stacks, and with arrays of their own as on GPUs.
    model = families.model(family) if family in WHOLE else families.model(family, scan_layers=False)
    theirs = reference.load(families.directory(family), dtype=reference.torch.float32)
    end = theirs.language_model.generation_config.eos_token_id
    ours = {"eos_token_id": end, "max_new_tokens": LENGTH, "penalize_prompt": True}
    batch = families.prompts(family, 0, ROWS)
    media = model.encode(batch)
    cases, different, lengths, stopped = 0, [], set(), set()
    for run in runs:
        want = reference.generate(theirs, batch, max_new_tokens=LENGTH, **run)
        got = ib.generate_ids(model, batch, media=media, **ours, **run)
        assert got.shape == want.shape
        pairs = [(families.until(a, end), families.until(b, end)) for a, b in zip(got, want, strict=True)]
        different += [(run, *pair) for pair in pairs if pair[0] != pair[1]]
        lengths |= {len(row) for _, row in pairs}
        cases += len(pairs)
        if "early_stopping" in run:
            stopped.add(str([row for _, row in pairs]))
    assert not different
    assert cases >= ROWS * len(runs)
    assert len(lengths) >= (8 if runs is RUNS else 3)  # short answers, long ones, and some that were cut
    assert len(stopped) == 3 or family not in WHOLE or runs is SHORT  # a kind of early stopping shows in the answers


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_prompt_is_not_penalized_unless_asked(family):
    model, batch, steps = families.model(family), families.prompts(family, 7), 5
    options = {"max_new_tokens": LENGTH, "repetition_penalty": 3.0}
    free, bound = (families.endless(family, batch, penalize_prompt=asked, **options) for asked in (False, True))
    assert not np.array_equal(free, bound)
    # By hand: the likeliest next token of the whole text so far, after the penalty of what was generated.
    room = ((0, 0), (0, steps))
    text = {name: x[:1] if name == "pixel_values" else np.pad(x[:1], room) for name, x in batch.items()}
    last = batch["input_ids"].shape[1] - 1
    written: list[int] = []
    for _ in range(steps):
        logits = np.array(model(text))[0, last + len(written)]
        seen = sorted(set(written))
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * 3.0, logits[seen] / 3.0)
        written.append(int(np.argmax(logits)))
        text["input_ids"][0, last + len(written)] = written[-1]
        text["attention_mask"][0, last + len(written)] = 1
    assert free[0, :steps].tolist() == written


def test_generation_ends_where_the_checkpoint_does():
    """LLaMA's configuration names the wrong end token, its tokenizer the right one; OPT's names the newline."""
    for family, ours in (("llama", 2), ("opt", None), ("instructblip", 1)):
        named = families.raw(family)["text_config"]["eos_token_id"]
        end = families.model(family).config.text.eos_token_id
        assert end == (named if ours is None else ours)
        assert (end == named) == (family != "llama")
        batch = families.prompts(family, 8)
        free = families.endless(family, batch, max_new_tokens=30)
        got = ib.generate_ids(families.model(family), batch, max_new_tokens=30)
        for row, whole in zip(got, free, strict=True):
            assert families.until(row, end) == families.until(whole, end)
