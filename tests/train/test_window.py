"""Means since the last logged step: exact, of one term or several, and saved with a checkpoint."""

import json

import numpy as np
import pytest

from instructblip_jax.train.window import Window


def test_the_loss_of_one_step_is_its_own_bit_for_bit():
    rng, window = np.random.default_rng(0), Window()
    for _ in range(1000):
        loss, tokens = np.float32(rng.exponential(3)), np.float32(rng.integers(1, 100_000))
        of_term = {"terms": {"lm": loss}, "counts": {"lm": tokens}, "weights": {"lm": 1.0}}
        window.add({"tokens": tokens} | of_term)
        assert window.entry() == {"loss": float(loss), "tokens": float(tokens)}


def test_a_window_of_several_terms_weighs_their_means():
    window, want = Window(["a", "b"]), {"itc": [], "lm": []}
    for n in (1, 2):
        means, counts = (
            {"itc": np.float32(n), "lm": np.float32(10 * n)},
            {"itc": np.float32(4), "lm": np.float32(3 * n)},
        )
        for name in want:
            want[name].append((float(means[name]), float(counts[name])))
        window.add(
            {
                "tokens": counts["lm"],
                "terms": means,
                "counts": counts,
                "weights": {"itc": np.float32(0.5), "lm": np.float32(2)},
                "set_totals": {"itc": np.array([6.0, 0.0]), "lm": np.array([8.0, 9.0])},
                "set_counts": {"itc": np.array([3.0, 0.0]), "lm": np.array([4.0, 1.0])},
                "drawn": np.array([3, 1]),
            }
        )
    saved = Window(["a", "b"])
    saved.set_state(json.loads(json.dumps(window.get_state())))
    assert saved.get_state() == window.get_state()
    entry = window.entry()
    itc, lm = (sum(mean * n for mean, n in pairs) / sum(n for _, n in pairs) for pairs in want.values())
    assert entry["terms"] == pytest.approx({"itc": itc, "lm": lm})
    assert entry["loss"] == pytest.approx(0.5 * itc + 2 * lm)
    assert entry["losses"] == pytest.approx({"a": 0.5 * 2 + 2 * 2, "b": 2 * 9.0})


def test_a_window_saved_by_the_version_with_one_loss_goes_on():
    window = Window(["a", "b"])
    window.set_state({"loss": 12.0, "tokens": 4.0, "set_loss": [12.0, 0.0], "set_tokens": [4.0, 0.0]})
    window.add(
        {
            "tokens": np.float32(6),
            "terms": {"lm": np.float32(2)},
            "counts": {"lm": np.float32(6)},
            "weights": {"lm": np.float32(1)},
            "set_totals": {"lm": np.array([4.0, 8.0])},
            "set_counts": {"lm": np.array([2.0, 4.0])},
            "drawn": np.array([3, 1]),
        }
    )
    entry = window.entry()
    assert (entry["loss"], entry["tokens"]) == (24.0 / 10, 10.0)
    assert entry["losses"] == {"a": 16.0 / 6, "b": 2.0}
