"""The loop over a step that is no model: what it logs, how it stops, what it traces, when it validates."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from instructblip_jax.command_lines.train import traced
from instructblip_jax.train import guard, log, loop, trace
from instructblip_jax.train.meter import PHASES, Meter
from instructblip_jax.train.stop import Stopped
from instructblip_jax.train.window import Window

SETS = ["a", "b"]


class Clock:
    """Goes on when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


OF_SETS = ("set_totals", "set_counts", "drawn")


@jax.jit
def step_fn(state, frozen, batch):
    """The "loss" is the mean of the batch; samples alternate between two sets."""
    drawn = state["drawn"] + jnp.array([1, 3])
    metrics = {
        "loss": jnp.mean(batch["x"]),
        "tokens": 20 * batch["x"][0],
        "grad_norm": jnp.float32(1),
        "learning_rate": jnp.float32(1e-3),
        "skipped": jnp.int32(0),
        "skipped_in_row": jnp.int32(0),
        "terms": {"mean": jnp.mean(batch["x"])},
        "counts": {"mean": 20 * batch["x"][0]},
        "weights": {"mean": jnp.float32(1)},
        "set_totals": {"mean": jnp.array([5.0, 30.0]) * batch["x"][0]},
        "set_counts": {"mean": jnp.array([5.0, 15.0])},
        "drawn": drawn,
    }
    return state | {"drawn": drawn, "total": state["total"] + metrics["loss"]}, metrics


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


def run(
    tmp_path,
    data,
    *,
    steps=12,
    start=0,
    meter=None,
    profile=None,
    log_every=4,
    checkpoint_every=5,
    step=step_fn,
    window=None,
    validate=None,
    validate_every=1,
):
    """The last state, the log's entries, and what was saved: (step, data position, the state's total). The places of
    the checkpoints are in ``run.places``, by step."""
    saved, run.places = [], {}

    def save(step, state, place):
        run.places[step] = json.loads(json.dumps(place))
        saved.append((step, place["iterator"], float(state["total"])))

    metrics_log = log.MetricsLog(epath.Path(tmp_path / "metrics.jsonl"), epath.Path(tmp_path / "events"), step=start)
    with meter or Meter() as meter:
        job = loop.Job(
            start=start,
            steps=steps,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            save=save,
            metrics_log=metrics_log,
            meter=meter,
            window=window or Window(SETS),
            trace=trace.Trace(traced(profile), epath.Path(tmp_path / "profile")) if profile else None,
            validate=validate,
            validate_every=validate_every,
        )
        state = {"drawn": jnp.zeros(2, jnp.int32), "total": jnp.zeros(()), "train": {}, "memory": {}}
        try:
            state = loop.run(state, {}, step, data, lambda batch: jax.tree.map(jnp.asarray, batch), job)
        finally:
            run.saved = saved
    return state, metrics_log.entries, saved


def test_entries_say_how_fast_and_how_well(tmp_path):
    """By a clock of the test's own: a batch takes a second, a step half of one."""
    clock = Clock()
    meter = Meter(flops_per_batch=lambda shapes: 1e6 * shapes["x"][0], peak_flops=1e9, clock=clock)

    def step(state, frozen, batch):
        clock.tick(0.5)
        return jax.block_until_ready(step_fn(state, frozen, batch))

    state, entries, saved = run(tmp_path, Numbers(lambda n: clock.tick(1)), meter=meter, steps=12, step=step)
    assert float(state["total"]) == sum(range(1, 13))
    assert saved == [(5, 5, 15.0), (10, 10, 55.0), (12, 12, 78.0)]
    assert [entry["step"] for entry in entries] == [4, 8, 12]
    second = entries[1]
    assert (second["grad_norm"], second["skipped"]) == (1.0, 0)
    assert second["learning_rate"] == pytest.approx(1e-3)
    # Of steps 5 to 8, each with as many times 20 tokens as its loss says.
    assert second["tokens"] == 20 * 26
    assert second["loss"] == (25 + 36 + 49 + 64) / 26
    assert second["losses"] == {"a": pytest.approx(6.5), "b": pytest.approx(13.0)}
    assert second["samples"] == {"a": 8, "b": 24}
    assert second["seconds"] == 6
    assert second["samples_per_second"] == 16 / 6
    assert second["tokens_per_second"] == 20 * 26 / 6
    assert second["mfu"] == pytest.approx(4 * 4e6 / 6 / 1e9)
    assert second["input_wait"] == 4 / 6
    assert second["memory"]["host"] > 1e7
    assert [entry["compilations"] for entry in entries[1:]] == [0, 0]
    shares = meter.shares()
    assert shares.keys() == set(PHASES)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert shares["input_wait"] == pytest.approx(12 / 18, abs=1e-3)
    for row in ("| samples/s ", "| MFU ", "| waiting for input ", "| checkpoints ", "3 ("):
        assert row in meter.summary()
    assert "| validation " not in meter.summary()


@pytest.mark.parametrize("start", [3, 6, 9])
def test_a_run_that_goes_on_between_two_logged_steps_logs_what_an_undisturbed_one_does(tmp_path, start):
    every = {"log_every": 5, "checkpoint_every": 3}
    _, want, _ = run(tmp_path / "one", Numbers(), **every)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "metrics.jsonl").write_text((tmp_path / "one" / "metrics.jsonl").read_text())
    place, data, window = run.places[start], Numbers(), Window(SETS)
    data.n = place["iterator"]
    window.set_state(place["window"])
    _, entries, _ = run(tmp_path / "two", data, start=start, window=window, **every)
    own = ("step", "loss", "tokens", "losses")
    assert [[entry[name] for name in own] for entry in entries] == [[entry[name] for name in own] for entry in want]
    assert len(entries) == 3


# The validation loss


@dataclasses.dataclass
class Held:
    """Stands for `validation.Validation`: the loss is the number of times it was asked for."""

    clock: Clock = dataclasses.field(default_factory=Clock)
    asked: int = 0

    def __call__(self, train, memory):
        self.clock.tick(10)
        self.asked += 1
        return {"a": float(self.asked), "b": 0.5}


def test_a_validation_loss_is_taken_every_so_often_and_at_the_end(tmp_path, capsys):
    clock = Clock()
    held, meter = Held(clock), Meter(clock=clock)
    _, entries, _ = run(
        tmp_path, Numbers(lambda n: clock.tick(1)), meter=meter, steps=13, validate=held, validate_every=6
    )
    assert [(e["step"], e.get("validation"), "loss" in e) for e in entries] == [
        (4, None, True),
        (6, {"a": 1.0, "b": 0.5}, False),  # a line of its own
        (8, None, True),
        (12, {"a": 2.0, "b": 0.5}, True),
        (13, {"a": 3.0, "b": 0.5}, True),
    ]
    assert log.read(epath.Path(tmp_path / "metrics.jsonl")) == entries
    assert [entry["seconds"] for entry in entries if "seconds" in entry][1:3] == [4, 3]  # without the validation's
    assert meter.spent["validating"] == 30
    assert "| validation        |           30.0 s |" in meter.summary()
    assert "validation loss after step 6: a 1.0000, b 0.5000\n" in capsys.readouterr().err


def test_a_validation_that_a_stop_left_out_is_made_up_for(tmp_path):
    """Whoever is told to stop has little time: the run that goes on takes the loss of the step it goes on from."""
    held = Held()
    stop = Numbers(lambda n: os.kill(os.getpid(), signal.SIGTERM) if n == 6 else None)
    with pytest.raises(Stopped):
        run(tmp_path, stop, validate=held, validate_every=3)
    assert held.asked == 1
    data = Numbers()
    data.n = 6
    _, entries, _ = run(tmp_path, data, start=6, validate=held, validate_every=3)
    assert [e["step"] for e in entries if "validation" in e] == [3, 6, 9, 12]
    _, entries, _ = run(tmp_path, data, start=12, validate=held, validate_every=3)
    assert held.asked == 4  # and once only


def test_records_that_were_too_long_are_named_once_and_counted(tmp_path):
    class Some(Numbers):
        def __next__(self):
            batch = super().__next__()
            return batch | {
                "passed": {2: ["set/train/7", "set/train/3"], 6: ["set/train/7", "set/train/1"]}.get(self.n, [])
            }

    meter = Meter()
    _, entries, _ = run(tmp_path, Some(), meter=meter)
    assert [entry["too_long"] for entry in entries] == [["set/train/3", "set/train/7"], ["set/train/1"], []]
    assert [entry["passed_over"] for entry in entries] == [2, 4, 4]
    [row] = [line for line in meter.summary().splitlines() if "records too long" in line]
    assert row.split()[-2] == "3"
    _, entries, _ = run(tmp_path / "none", Numbers())
    assert not any("too_long" in entry for entry in entries)


class Loss:
    """A step's loss that is ready when the test says so."""

    def __init__(self, value, ready):
        self.value, self.ready = value, ready

    def is_ready(self):
        return self.ready

    def __array__(self, *_, **__):
        return np.asarray(self.value)


@pytest.mark.parametrize(("ready", "waited"), [(True, 1.0), (False, 0.0)])
def test_only_idle_devices_wait_for_input(tmp_path, ready, waited):
    """A batch that is made while a step still runs costs nothing."""
    clock = Clock()

    def step(state, frozen, batch):
        state, metrics = step_fn(state, frozen, batch)
        return state, metrics | {"loss": Loss(metrics["loss"], ready)}

    every = {"checkpoint_every": 100}  # a checkpoint waits for all steps
    _, entries, _ = run(tmp_path, Numbers(lambda n: clock.tick(1)), step=step, meter=Meter(clock=clock), **every)
    assert [entry["input_wait"] for entry in entries[1:]] == [waited, waited]


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
        return state, {name: x for name, x in metrics.items() if name not in (*OF_SETS, "learning_rate")}

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

    with pytest.raises(Stopped, match=r"^stopped by SIGTERM after step 7; the same command resumes from there$"):
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
        traced(text)
