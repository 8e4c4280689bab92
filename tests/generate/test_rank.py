"""Candidates' log-likelihoods against the reference's, one at a time. Skipped where torch is not installed."""

import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.decoding import rank as ranking

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import families
import reference

TEXTS = ["what is unusual about this image ?", "is it raining ? yes or no"]
CANDIDATES = ["yes", "no", "it is raining", "a dog sits on the red bench", "seven"]


class Ranked:
    """A family's model and processor, two pictures, and the reference's log-probability of every candidate's token."""

    def __init__(self, family: str):
        self.directory = families.directory(family)
        self.model = families.model(family)
        self.processor = ib.Processor.from_pretrained(self.directory)
        rng = np.random.default_rng(0)
        self.pictures = [Image.fromarray(rng.integers(0, 256, (40, 33, 3), np.uint8)) for _ in TEXTS]
        theirs = reference.load(self.directory)
        self.each = {}
        for n, (image, text) in enumerate(zip(self.pictures, TEXTS, strict=True)):
            for candidate in CANDIDATES:
                batch = self.processor([image], [text], [candidate])
                self.each[n, candidate] = reference.label_log_probabilities(theirs, batch)

    def sums(self, cut: int = 0) -> np.ndarray:
        return np.array([[self.each[n, c][: len(self.each[n, c]) - cut].sum() for c in CANDIDATES] for n in (0, 1)])

    def counts(self) -> np.ndarray:
        return np.array([[len(self.each[n, c]) for c in CANDIDATES] for n in (0, 1)])


@pytest.fixture(scope="module", params=families.WITH_TOKENIZER)
def ranked(request):
    return Ranked(request.param)


def test_sums_means_and_sums_without_the_end(ranked):
    asked = (ranked.model, ranked.processor, ranked.pictures, TEXTS, CANDIDATES)
    scores = ib.rank(*asked)
    assert scores.dtype == np.float32
    assert scores.shape == (2, 5)
    assert len(set(ranked.counts()[0])) > 2  # candidates of different lengths in one batch
    np.testing.assert_allclose(scores, ranked.sums(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(ib.rank(*asked, include_end=False), ranked.sums(cut=1), atol=1e-4, rtol=0)
    np.testing.assert_allclose(ib.rank(*asked, normalize=True), ranked.sums() / ranked.counts(), atol=1e-4, rtol=0)


def test_groups_of_candidates_and_lists_for_each_row(ranked, monkeypatch):
    asked = (ranked.model, ranked.processor, ranked.pictures, TEXTS)
    want = ib.rank(*asked, CANDIDATES)
    sizes = []
    score = ranked.model.log_likelihood
    monkeypatch.setattr(ranked.model, "log_likelihood", lambda c, ids, n: sizes.append(ids.shape) or score(c, ids, n))
    length = -(-ranked.counts().max() // ranking.LENGTH_STEP) * ranking.LENGTH_STEP
    monkeypatch.setattr(ranking, "SCORE_ELEMENTS", 2 * 2 * length * ranked.model.config.text.vocab_size)
    np.testing.assert_allclose(ib.rank(*asked, CANDIDATES), want, atol=1e-4, rtol=0)
    assert sizes == [(2, 2, length)] * 3
    own = ib.rank(*asked, [CANDIDATES[:2], CANDIDATES[2:]])
    assert own.shape == (2, 3)
    np.testing.assert_allclose(own[0, :2], want[0, :2], atol=1e-4, rtol=0)
    np.testing.assert_allclose(own[1], want[1, 2:], atol=1e-4, rtol=0)
    assert own[0, 2] == -np.inf


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ("yes", "candidates is a single text, 'yes'"),
        ([], "candidates of row 0 are"),
        (["yes", " "], "none may be empty"),
        ([["yes"]], "2 rows but 1 lists of candidates"),
        ([["yes"], []], "candidates of row 1 are"),
    ],
)
def test_candidates_that_cannot_be_are_refused(ranked, candidates, message):
    with pytest.raises(ValueError, match=message):
        ib.rank(ranked.model, ranked.processor, ranked.pictures, TEXTS, candidates)
