"""Contrast and matching against plain statements, and the gradients that must not be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructblip_jax.objectives import contrast, matching

B, N, Q, E = 4, 7, 3, 5


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("f")


def softmax(x):
    x = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def test_unit_vectors_and_a_vector_of_zeros():
    x = normal(B, E)
    np.testing.assert_allclose(contrast.unit(x), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-6)
    zero, gradient = jax.value_and_grad(lambda x: contrast.unit(x).sum())(jnp.zeros(E))
    assert zero == 0
    assert np.isfinite(gradient).all()


def test_the_best_query_is_chosen_for_each_pair():
    queries, texts = normal(B, Q, E), normal(N, E, seed=1)
    want = [[max(queries[b, q] @ texts[n] for q in range(Q)) for n in range(N)] for b in range(B)]
    np.testing.assert_allclose(contrast.best_query(queries, texts), want, rtol=1e-5)


def test_targets_by_place_and_by_picture():
    pictures, queue = np.array([3, 5, 3, 9]), np.array([3, 5, 3, 9, -100, 5, 5])
    np.testing.assert_array_equal(contrast.diagonal_targets(2, 3), [[1, 0, 0], [0, 1, 0]])
    want = np.array([[1 / 2, 0, 1 / 2, 0, 0, 0, 0], [0, 1 / 3, 0, 0, 0, 1 / 3, 1 / 3], [0] * 7, [0, 0, 0, 1, 0, 0, 0]])
    want[2] = want[0]
    np.testing.assert_allclose(contrast.picture_targets(pictures, queue), want, rtol=1e-6)
    smooth = contrast.smoothed(jnp.asarray(want), 0.1)
    np.testing.assert_allclose(smooth, 0.9 * want + 0.1 / 7, rtol=1e-6)
    np.testing.assert_allclose(smooth.sum(1), 1, rtol=1e-6)


def test_soft_cross_entropy_and_a_teacher_without_gradient():
    logits, teacher, targets = normal(B, N), normal(B, N, seed=1), np.eye(B, N, dtype="f")

    def loss(logits, teacher):
        return contrast.soft_cross_entropy(logits, contrast.mixed(targets, teacher, 0.3)).sum()

    want = (-(0.3 * softmax(teacher) + 0.7 * targets) * np.log(softmax(logits))).sum()
    np.testing.assert_allclose(loss(logits, teacher), want, rtol=1e-5)
    own, others = jax.grad(loss, argnums=(0, 1))(logits, teacher)
    assert np.abs(own).max() > 0.01
    np.testing.assert_array_equal(others, 0)


def test_the_three_ways_to_weigh_negatives():
    similarity, same = normal(B, B), np.eye(B, dtype=bool)
    same[0, 2] = same[2, 0] = True
    likely = softmax(similarity)
    np.testing.assert_allclose(matching.chances(similarity, same), np.where(same, 0, likely), rtol=1e-5)
    blip = matching.chances(similarity, same, matching.FLOOR)
    np.testing.assert_allclose(blip, np.where(same, 0, likely + 1e-4), rtol=1e-5)
    closed = np.where(same, 0, likely)
    closed /= closed.sum(1, keepdims=True)
    np.testing.assert_allclose(matching.closed_chances(similarity, same), closed, rtol=1e-5)
    hopeless = 1e3 * np.eye(2, dtype="f")  # ALBEF's softmax leaves nothing, BLIP-2's does
    np.testing.assert_array_equal(matching.closed_chances(hopeless, np.eye(2, dtype=bool)), 1 - np.eye(2))
    for weigh in (matching.chances, matching.closed_chances):
        np.testing.assert_array_equal(jax.grad(lambda x, weigh=weigh: weigh(x, same)[0, 1])(similarity), 0)


def test_a_pick_is_the_first_candidate_past_its_number():
    weights = jnp.array([[0.0, 1, 3, 0]] * 6)
    np.testing.assert_array_equal(
        matching.pick(weights, jnp.array([0, 0.2, 0.25, 0.6, 0.9999, 1.0])), [1, 1, 2, 2, 2, 2]
    )


def test_picks_follow_their_weights():
    weights = jnp.tile(jnp.array([[0.1, 0.0, 0.6, 0.3]]), (4000, 1))
    found = np.bincount(matching.pick(weights, jax.random.uniform(jax.random.key(1), (4000,))), minlength=4) / 4000
    np.testing.assert_allclose(found, [0.1, 0, 0.6, 0.3], atol=0.03)


def test_matching_is_the_mean_over_three_pairs_a_row():
    logits = [normal(B, 2, seed=n) for n in range(3)]
    term = matching.matching_term(*logits)
    chosen = [np.log(softmax(x)[:, label]) for x, label in zip(logits, (1, 0, 0), strict=True)]
    np.testing.assert_allclose(term.sums, -np.sum(chosen, axis=0), rtol=1e-5)
    np.testing.assert_allclose(term.sums.sum() / term.counts.sum(), -np.mean(chosen), rtol=1e-5)


def test_one_row_has_no_negatives():
    matching.check_rows(2)
    with pytest.raises(ValueError, match=r"batch of 1 pair has no negatives.*batch_size"):
        matching.check_rows(1)
