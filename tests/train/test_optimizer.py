"""The paper's AdamW: its schedule, what decays, clipping."""

import math

import checkpoints
import jax
import numpy as np
import optax
import pytest
import training

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.systems.build import abstract
from instructblip_jax.train.optimizer import OptimConfig, decays, optimizer, schedule


def test_the_defaults_are_the_papers():
    config = OptimConfig()
    assert (config.learning_rate, config.warmup_steps, config.warmup_start) == (1e-5, 1000, 1e-8)
    assert (config.weight_decay, config.beta1, config.beta2, config.clip_norm) == (0.05, 0.9, 0.999, 0.0)
    assert (config.epsilon, config.final_learning_rate) == (1e-8, 0.0)
    assert (config.accumulation, config.spike_factor, config.rates) == (1, 0.0, {})


def test_the_schedule_rises_linearly_and_falls_as_a_cosine_to_its_floor():
    rate = schedule(OptimConfig(final_learning_rate=1e-6), 11_000)
    assert float(rate(0)) == pytest.approx(1e-8)
    assert float(rate(250)) == pytest.approx(1e-8 + (1e-5 - 1e-8) / 4)
    assert float(rate(1000)) == pytest.approx(1e-5)
    for step in (1001, 3500, 6000, 9999):
        share = (step - 1000) / 10_000
        want = 1e-6 + (1e-5 - 1e-6) * (1 + math.cos(math.pi * share)) / 2
        assert float(rate(step)) == pytest.approx(want, rel=1e-4)
    assert float(rate(11_000)) == pytest.approx(1e-6)
    assert float(rate(12_000)) == pytest.approx(1e-6)
    rates = [float(rate(step)) for step in range(0, 11_001, 50)]
    assert max(rates) == pytest.approx(1e-5)
    assert np.argmax(rates) == 20


def test_the_rate_may_fall_in_a_line():
    rate = schedule(OptimConfig(learning_rate=2e-4, warmup_start=0.0, warmup_steps=375, decay="linear"), 300_000)
    assert float(rate(375)) == pytest.approx(2e-4)
    assert float(rate(375 + (300_000 - 375) // 4)) == pytest.approx(1.5e-4, rel=1e-4)
    assert float(rate(300_000)) == pytest.approx(0, abs=1e-12)


def test_a_run_shorter_than_its_warm_up_rises_all_along():
    rate = schedule(OptimConfig(warmup_steps=1000), 10)
    rates = [float(rate(step)) for step in range(11)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1e-8)
    assert all(map(math.isfinite, rates))


def test_no_warm_up_starts_at_the_peak():
    assert float(schedule(OptimConfig(warmup_steps=0), 10)(0)) == pytest.approx(1e-5)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(checkpoints.json.dumps(training.config_json()))
    _, train, _ = abstract(
        hf_instructblip.read_config(path), mesh=single_device_mesh(), dtype="float32", trainable="original"
    )
    return train


def test_biases_and_norms_do_not_decay_and_all_else_does(train):
    mask = decays(train)
    assert mask["query_tokens"]
    assert mask["qformer/word/embedding"]
    assert mask["qformer/position/embedding"]
    assert mask["projector/kernel"]
    assert not mask["projector/bias"]
    assert not mask["vit/post_norm/scale"]
    assert not mask["qformer/norm/bias"]
    # By their shapes: every vector is a bias or belongs to a norm, and nothing else is a vector.
    stacks = ("qformer/layers/", "qformer/cross_attention/")
    assert mask == {path: leaf.ndim - path.startswith(stacks) > 1 for path, leaf in train.items()}


def test_decay_acts_through_the_learning_rate_on_what_decays_only():
    config = OptimConfig(learning_rate=1e-2, warmup_steps=0, weight_decay=0.5)
    params = {"a/kernel": np.full((2, 2), 4.0), "a/bias": np.full(2, 4.0), "query_tokens": np.full((1, 2), -8.0)}
    tx = optimizer(config, 100)
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    np.testing.assert_allclose(updates["a/kernel"], -1e-2 * 0.5 * 4.0, rtol=1e-6)
    np.testing.assert_allclose(updates["query_tokens"], 1e-2 * 0.5 * 8.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["a/bias"], 0.0)


def test_betas_and_epsilon_are_adams():
    """Two updates, written out as in the paper of Adam, with other settings than any library's."""
    beta1, beta2, epsilon = 0.6, 0.75, 0.05
    config = OptimConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0, beta1=beta1, beta2=beta2, epsilon=epsilon)
    tx, params = optimizer(config, 1_000_000), {"a/kernel": np.zeros((1, 2))}
    state, mean, square = tx.init(params), np.zeros((1, 2)), np.zeros((1, 2))
    for n, gradient in enumerate((np.array([[0.3, -2.0]]), np.array([[-0.1, 0.5]])), start=1):
        updates, state = tx.update({"a/kernel": gradient}, state, params)
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        want = -0.1 * (mean / (1 - beta1**n)) / (np.sqrt(square / (1 - beta2**n)) + epsilon)
        np.testing.assert_allclose(updates["a/kernel"], want, rtol=1e-5)


def test_clipping_scales_all_gradients_together_and_only_long_ones():
    base = {"learning_rate": 1e-2, "warmup_steps": 0, "epsilon": 1.0}  # with a large epsilon Adam feels the scale
    params = {"a/kernel": np.ones((2, 3)), "b/bias": np.ones(3)}
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)
    norm = float(optax.global_norm(grads))

    def update(config, grads):
        tx = optimizer(config, 10)
        return tx.update(grads, tx.init(params), params)[0]

    scaled = jax.tree.map(lambda g: g * 0.5 / norm, grads)
    for got, want in (
        (update(OptimConfig(**base, clip_norm=0.5), grads), update(OptimConfig(**base), scaled)),
        (update(OptimConfig(**base, clip_norm=norm * 2), grads), update(OptimConfig(**base), grads)),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


@pytest.mark.parametrize(
    "bad", [{"accumulation": 0}, {"warmup_steps": -1}, {"learning_rate": 0.0}, {"rates": {"a": -1.0}}]
)
def test_settings_that_make_no_sense_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=f"optim.{next(iter(bad))}"):
        OptimConfig(**bad)


def test_rates_are_factors_of_the_learning_rate_by_path():
    """As of LLaVA-LoRA: adapters at the rate of the run, the projector at a tenth of it; the longest prefix counts."""
    params = {path: np.full((2, 2), 4.0) for path in ("a/kernel", "ab/kernel", "llm/x/y/lora/a", "llm/layers/lora/b")}
    rng = np.random.default_rng(0)
    grads = {path: rng.standard_normal((2, 2)) for path in params}
    base = {"learning_rate": 1e-2, "warmup_steps": 0, "weight_decay": 0.5, "clip_norm": 1.0}

    def update(**more):
        tx = optimizer(OptimConfig(**base, **more), 10)
        return tx.update(grads, tx.init(params), params)[0]

    plain, scaled = update(), update(rates={"a": 0.1, "llm/*/lora": 3.0, "llm/layers/lora": 0.0})
    for path, factor in zip(params, (0.1, 1.0, 3.0, 0.0), strict=True):
        np.testing.assert_allclose(scaled[path], plain[path] * factor, rtol=1e-6)
    with pytest.raises(ValueError, match=r"optim\.rates names 'abc', and this run trains nothing under it"):
        update(rates={"a": 0.1, "abc": 2.0})


def test_nothing_decays_under_some_prefixes():
    params = {path: np.full((2, 2), 4.0) for path in ("a/b/kernel", "a/c/kernel", "d/kernel", "d/bias")}
    tx = optimizer(OptimConfig(learning_rate=1e-2, warmup_steps=0, weight_decay=0.5, undecayed=("a/b",)), 10)
    updates = tx.update({path: np.zeros((2, 2)) for path in params}, tx.init(params), params)[0]
    assert {path for path, x in updates.items() if x.any()} == {"a/c/kernel", "d/kernel"}
    with pytest.raises(ValueError, match=r"optim\.undecayed names 'abc', and this run trains nothing under it"):
        optimizer(OptimConfig(undecayed=("abc",)), 10).init(params)
