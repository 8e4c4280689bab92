"""The loss taken a chunk of positions at a time: the same numbers and gradients, without the logits of a whole text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructblip_jax.objectives.lm import CHUNK, IGNORE, chunked_cross_entropy, token_cross_entropy


def chunked(to_logits, hidden, labels, smoothing=0.0):
    """Sums and counts of each row."""
    term = chunked_cross_entropy(to_logits, hidden, labels, smoothing=smoothing)
    return term.sums, term.counts


B, D, V = 3, 7, 11


def case(length):
    """hidden [B, T, D], kernel [D, V], labels [B, T] of which some are ignored, a row of them whole."""
    rng = np.random.default_rng(length)
    labels = rng.integers(0, V, (B, length))
    labels[rng.random(labels.shape) < 0.3] = IGNORE
    labels[1] = IGNORE
    return rng.normal(size=(B, length, D)).astype("f"), rng.normal(size=(D, V)).astype("f"), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("length", [1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK - 5])
def test_chunks_change_neither_the_loss_nor_its_gradient(length, smoothing):
    hidden, kernel, labels = case(length)
    weights = jnp.array([1.0, 2.0, -0.5])

    def run(cross_entropy):
        def total(hidden, kernel):
            losses, tokens = cross_entropy(hidden, kernel)
            return losses @ weights, (losses, tokens)

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, kernel)

    (_, (want, count)), want_grads = run(lambda x, k: token_cross_entropy(x @ k, labels, smoothing))
    (_, (got, got_count)), got_grads = run(lambda x, k: chunked(lambda part: part @ k, x, labels, smoothing))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_array_equal(got_count, count)
    np.testing.assert_array_equal(count, (labels != IGNORE).sum(1))
    for a, b in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_row_is_its_own_mean_of_log_probabilities():
    hidden, kernel, labels = case(5)
    logits = (hidden @ kernel).astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = [-sum(log_probs[b, t, labels[b, t]] for t in range(5) if labels[b, t] != IGNORE) for b in range(B)]
    got, _ = token_cross_entropy(jnp.asarray(hidden @ kernel), labels)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_smoothing_spreads_a_share_of_the_target_over_all_words():
    hidden, kernel, labels = case(5)
    logits = (hidden @ kernel).astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = 0.9 * np.eye(V)[np.maximum(labels, 0)] + 0.1 / V  # an ignored label has a row too, which does not count
    want = -((target * log_probs).sum(-1) * (labels != IGNORE)).sum(1)
    got, count = token_cross_entropy(jnp.asarray(hidden @ kernel), labels, 0.1)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_array_equal(count, (labels != IGNORE).sum(1))


def test_the_logits_of_a_whole_text_never_exist():
    hidden, kernel, labels = case(4 * CHUNK)

    def total(hidden):
        return chunked(lambda part: part @ kernel, hidden, labels)[0].sum()

    program = str(jax.make_jaxpr(jax.grad(total))(hidden))
    assert f"f32[{B},{CHUNK},{V}]" in program
    assert f"f32[{B},{4 * CHUNK},{V}]" not in program
    assert f"f32[4,{B},{CHUNK},{V}]" not in program  # nor as what the backward pass keeps
