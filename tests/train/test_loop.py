"""The loop over a step that is no model: what it logs, how it stops, what it traces."""

import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from instructblip_jax.train import guard, log, loop, trace
from instructblip_jax.train.meter import PHASES, Meter
from instructblip_jax.train.stop import Stopped


@jax.jit
def step_fn(state, frozen, batch):
    """The "loss" is the mean of the batch; samples alternate between two sets."""
    drawn = state["drawn"] + jnp.array([1, 3])
    metrics = {
        "loss": jnp.mean(batch["x"]),
        "tokens": jnp.float32(20),
        "grad_norm": jnp.float32(1),
        "learning_rate": jnp.float32(1e-3),
        "skipped": jnp.int32(0),
        "skipped_in_row": jnp.int32(0),
        "set_loss": jnp.array([5.0, 30.0]) * batch["x"][0],
        "set_tokens": jnp.array([5.0, 15.0]),
        "drawn": drawn,
    }
    return {"drawn": drawn, "total": state["total"] + metrics["loss"]}, metrics


class Numbers:
    """Batches of four times their own number; ``before`` is called with each number."""

    def __init__(self, before=lambda n: None, value=float):
        self.n, self.before, self.value = 0, before, value

    def __next__(self):
        self.n += 1
        self.before(self.n)
        x = np.full(4, self.value(self.n), np.float32)
        return {"x": x, "uid": [f"set/train/{self.n}-{row}" for row in range(4)]}

    def get_state(self):
        return self.n


def run(tmp_path, data, *, steps=12, start=0, meter=None, profile=None, log_every=4, checkpoint_every=5, step=step_fn):
    """The last state, the log's entries, and what was saved: (step, data position, the state's total)."""
    saved = []
    metrics_log = log.MetricsLog(epath.Path(tmp_path / "metrics.jsonl"), epath.Path(tmp_path / "events"), step=start)
    with meter or Meter(sets=["a", "b"]) as meter:
        job = loop.Job(
            start=start,
            steps=steps,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            save=lambda step, state, position: saved.append((step, position, float(state["total"]))),
            metrics_log=metrics_log,
            meter=meter,
            trace=trace.Trace(trace.parse(profile), epath.Path(tmp_path / "profile")) if profile else None,
        )
        state = {"drawn": jnp.zeros(2, jnp.int32), "total": jnp.zeros(())}
        try:
            state = loop.run(state, {}, step, data, lambda batch: jax.tree.map(jnp.asarray, batch), job)
        finally:
            run.saved = saved
    return state, metrics_log.entries, saved


def test_entries_say_how_fast_and_how_well(tmp_path):
    meter = Meter(sets=["a", "b"], flops_per_batch=lambda shapes: 1e6 * shapes["x"][0], peak_flops=1e9)
    state, entries, saved = run(tmp_path, Numbers(lambda n: time.sleep(0.02)), meter=meter, steps=12)
    assert float(state["total"]) == sum(range(1, 13))
    assert saved == [(5, 5, 15.0), (10, 10, 55.0), (12, 12, 78.0)]
    assert [entry["step"] for entry in entries] == [4, 8, 12]
    second = entries[1]
    assert (second["loss"], second["tokens"], second["skipped"]) == (8.0, 20.0, 0)
    assert second["learning_rate"] == pytest.approx(1e-3)
    assert second["samples_per_second"] == pytest.approx(16 / second["seconds"], rel=0.05)
    assert second["tokens_per_second"] == pytest.approx(80 / second["seconds"], rel=0.05)
    assert second["mfu"] == pytest.approx(4 * 4e6 / second["seconds"] / 1e9, rel=0.05)
    assert second["losses"] == {"a": pytest.approx(6.5), "b": pytest.approx(13.0)}  # of steps 5 to 8
    assert second["samples"] == {"a": 8, "b": 24}
    assert second["memory"]["host"] > 1e7
    assert [entry["compilations"] for entry in entries[1:]] == [0, 0]
    assert all(0.5 < entry["input_wait"] <= 1 for entry in entries[1:])  # the data takes longer than the step
    shares = meter.shares()
    assert shares.keys() == set(PHASES)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert shares["input_wait"] > 0.2
    for row in ("| samples/s ", "| MFU ", "| waiting for input ", "| checkpoints ", "3 ("):
        assert row in meter.summary()


def test_records_that_were_too_long_are_named_once_and_counted(tmp_path):
    class Some(Numbers):
        def __next__(self):
            batch = super().__next__()
            return batch | {
                "passed": {2: ["set/train/7", "set/train/3"], 6: ["set/train/7", "set/train/1"]}.get(self.n, [])
            }

    meter = Meter(sets=["a", "b"])
    _, entries, _ = run(tmp_path, Some(), meter=meter)
    assert [entry["too_long"] for entry in entries] == [["set/train/3", "set/train/7"], ["set/train/1"], []]
    assert [entry["passed_over"] for entry in entries] == [2, 4, 4]
    [row] = [line for line in meter.summary().splitlines() if "records too long" in line]
    assert row.split()[-2] == "3"
    _, entries, _ = run(tmp_path / "none", Numbers())
    assert not any("too_long" in entry for entry in entries)


def test_only_idle_devices_wait_for_input(tmp_path):
    """A batch that is made while a step still runs costs nothing."""

    @jax.jit
    def long_step(state, frozen, batch):
        work = jax.lax.fori_loop(0, 300, lambda _, x: jnp.tanh(x @ x), jnp.ones((256, 256)))
        state, metrics = step_fn(state, frozen, batch)
        return state, metrics | {"loss": metrics["loss"] + 0 * work[0, 0]}

    short = Numbers(lambda n: time.sleep(0.005))
    _, entries, _ = run(tmp_path, short, step=long_step)
    assert all(entry["seconds"] > 4 * 0.02 for entry in entries), entries
    assert all(entry["input_wait"] < 0.05 for entry in entries[1:]), entries


def test_another_shape_is_a_compilation_and_is_counted(tmp_path):
    data = Numbers()
    plain = data.__class__.__next__

    class Longer(Numbers):
        def __next__(self):
            batch = plain(self)
            return batch | {"x": np.repeat(batch["x"], 7)} if self.n == 6 else batch

    _, entries, _ = run(tmp_path, Longer())
    assert entries[1]["compilations"] >= 1
    assert entries[2]["compilations"] == 0


def test_a_batch_without_sets_is_logged_without_them(tmp_path):
    @jax.jit
    def bare(state, frozen, batch):
        state, metrics = step_fn(state, frozen, batch)
        return state, {name: metrics[name] for name in ("loss", "tokens", "grad_norm", "skipped", "skipped_in_row")}

    metrics_log = log.MetricsLog(epath.Path(tmp_path / "metrics.jsonl"), epath.Path(tmp_path / "events"), step=0)
    with Meter() as meter:
        job = loop.Job(0, 2, 1, 2, lambda *_: None, metrics_log, meter)
        state = {"drawn": jnp.zeros(2, jnp.int32), "total": jnp.zeros(())}
        loop.run(state, {}, bare, Numbers(), lambda batch: jax.tree.map(jnp.asarray, batch), job)
    assert len(metrics_log.entries) == 2
    assert not metrics_log.entries[0].keys() & {"losses", "samples", "mfu", "learning_rate"}


def test_sigterm_ends_the_run_after_the_step_saved_and_the_old_handler_is_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def take_away(n):
        if n == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"^stopped by SIGTERM after step 7; the same command goes on from there$"):
        run(tmp_path, Numbers(take_away), log_every=1)
    assert run.saved == [(5, 5, 15.0), (7, 7, 28.0)]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 8))  # nothing is logged that is not saved
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_in_the_last_step_changes_nothing(tmp_path):
    data = Numbers(lambda n: os.kill(os.getpid(), signal.SIGTERM) if n == 12 else None)
    _, _, saved = run(tmp_path, data)
    assert saved[-1] == (12, 12, 78.0)


def test_a_loss_that_is_no_number_names_its_examples(tmp_path):
    with pytest.raises(guard.DivergedError, match=r"^step 8: loss nan") as error:
        run(tmp_path, Numbers(value=lambda n: np.nan if n == 8 else n))
    assert error.value.record["uids"] == [f"set/train/8-{row}" for row in range(4)]
    assert run.saved == [(5, 5, 15.0)]


# --profile


def test_a_trace_of_the_steps_is_written_once(tmp_path):
    run(tmp_path, Numbers(), profile="3:5")
    (found,) = (tmp_path / "profile").rglob("*.xplane.pb")
    content = found.read_bytes()
    assert len(content) > 1000
    assert b"train" in content


@pytest.mark.parametrize(("profile", "start", "written"), [("2:4", 6, 0), ("2:8", 6, 1), ("9:99", 6, 1)])
def test_of_a_resumed_run_the_steps_that_are_left_are_traced(tmp_path, profile, start, written):
    run(tmp_path, Numbers(), profile=profile, start=start)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == written


@pytest.mark.parametrize("text", ["", "5", "8:5", "0:3", "a:b", "3:", "-1:4", "1:2:3"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=f"--profile '{text}': give the first and the last step"):
        trace.parse(text)
