"""Sampling draws from the reference's distribution: chi-square tests. Skipped where torch is not installed."""

from collections import Counter

import numpy as np
import pytest
from packaging.version import Version
from scipy import stats

import instructblip_jax as ib

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import families
import reference

DRAWS = 4000
LEVEL = 1e-3  # seeds are fixed: a right sampler fails one choice of seed in a thousand
RUNS = (
    {"top_k": 0},
    {"temperature": 0.6, "top_k": 0},
    {"top_k": 7},
    {"top_p": 0.8, "top_k": 0},
    {"temperature": 1.7, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.3},
)


def p_value(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Of draws counted by token; tokens expected fewer than five times are counted together."""
    expected = probabilities * counts.sum()
    common = expected >= 5
    seen, want = counts[common], expected[common]
    if expected[~common].sum() > 0:
        seen, want = np.append(seen, counts[~common].sum()), np.append(want, expected[~common].sum())
    return float(stats.chisquare(seen, want * seen.sum() / want.sum()).pvalue)


REST = tuple(family for family in families.FAMILIES if family != "instructblip")


@pytest.mark.parametrize(
    ("family", "run"),
    [
        *(("instructblip", run) for run in RUNS),
        ("llama", RUNS[-1]),
        *(pytest.param(family, run, marks=pytest.mark.reference) for family in REST for run in RUNS),
    ],
    ids=str,
)
def test_draws_follow_the_references_distribution(family, run):
    model, batch = families.model(family), families.prompts(family, 3, rows=1)
    theirs = reference.load(families.directory(family), dtype=reference.torch.float32)
    words = model.config.text.vocab_size
    first = reference.next_token_probabilities(theirs, batch, [], **run)
    assert np.count_nonzero(first) > 3
    options = {"do_sample": True, "penalize_prompt": True, "eos_token_id": int(np.argmin(first)), **run}
    ids = ib.generate_ids(model, batch, max_new_tokens=2, num_return_sequences=DRAWS, seed=5, **options)
    drawn = np.bincount(ids[:, 0], minlength=words)
    assert not drawn[first == 0].any()
    assert p_value(drawn, first) > LEVEL
    colder = first**1.4  # the test can tell
    assert p_value(drawn, colder / colder.sum()) < LEVEL
    # The second token, after the first one that was drawn most.
    common = int(np.argmax(drawn))
    second = reference.next_token_probabilities(theirs, batch, [common], **run)
    drawn = np.bincount(ids[ids[:, 0] == common, 1], minlength=words)
    assert not drawn[second == 0].any()
    assert p_value(drawn, second) > LEVEL


@pytest.mark.skipif(
    Version(reference.transformers.__version__) < Version("5.24"),
    reason="transformers sorts the candidates that it draws by score since 5.24",
)
def test_beams_are_sampled_as_the_reference_samples_them():
    """With many common answers: keeping the candidates in the order of their draw gives p < 1e-8."""
    family, rows = "instructblip", 400
    model, one = families.model(family), families.prompts(family, 4, rows=1)
    theirs = reference.load(families.directory(family), dtype=reference.torch.float32)
    batch = {name: np.repeat(x, rows, axis=0) for name, x in one.items()}
    run = {"num_beams": 3, "do_sample": True, "top_k": 6, "temperature": 3.0, "max_new_tokens": 3}
    reference.torch.manual_seed(0)
    want = Counter(map(tuple, reference.generate(theirs, batch, **run)[:, :2].tolist()))
    got = Counter(map(tuple, ib.generate_ids(model, batch, seed=1, **run)[:, :2].tolist()))
    common = [answer for answer, count in (want + got).items() if count >= 20]
    table = [[counts[answer] for answer in common] + [rows - sum(counts[a] for a in common)] for counts in (want, got)]
    table = np.array(table)
    table = table[:, table.sum(axis=0) >= 10]
    assert table.shape[1] >= 5
    assert stats.chi2_contingency(table).pvalue > LEVEL


def test_a_seed_repeats_its_answers_and_another_gives_others():
    model, batch = families.model("instructblip"), families.prompts("instructblip", 5)
    draw = {"do_sample": True, "max_new_tokens": 12, "min_new_tokens": 12, "num_return_sequences": 3}
    first, again, other = (ib.generate_ids(model, batch, seed=seed, **draw) for seed in (1, 1, 2))
    assert first.shape == (12, 12)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({tuple(row) for row in first}) == 12
