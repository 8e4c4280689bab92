"""metrics.jsonl and the TensorBoard file beside it, read back with TensorBoard's own reader."""

import sys

import pytest
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from instructblip_jax.train import log


def entry(step: int, loss: float) -> dict:
    return {
        "step": step,
        "time": 1.7e9 + step,
        "loss": loss,
        "skipped": 0,
        "memory": {"host": 5 << 30},
        "losses": {"caption": loss / 2},
    }


def shown(directory) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(directory)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


def start(workdir, step: int = 0) -> log.MetricsLog:
    return log.MetricsLog(workdir / "metrics.jsonl", workdir / "tensorboard", step=step)


def test_what_is_written_is_read_back_in_both(workdir):
    written = [entry(step, 4.0 / step) for step in (10, 20)]
    metrics_log = start(workdir)
    for one in written:
        metrics_log.write(one)
    assert log.read(workdir / "metrics.jsonl") == written
    scalars = shown(workdir / "tensorboard")
    assert scalars.keys() == {"loss", "skipped", "memory/host", "losses/caption"}
    assert scalars["losses/caption"] == [(10, pytest.approx(0.2)), (20, pytest.approx(0.1))]
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    assert [e.wall_time for e in events.Scalars("loss")] == [1.7e9 + 10, 1.7e9 + 20]


def test_a_run_that_goes_on_shows_no_step_twice(workdir):
    first = start(workdir)
    for step in (10, 20, 30):
        first.write(entry(step, 1.0))
    watching = EventAccumulator(str(workdir / "tensorboard")).Reload()
    again = start(workdir, step=20)  # killed after step 30, the last checkpoint is that of step 20
    again.write(entry(30, 0.5))
    again.write(entry(40, 0.5))
    want = [(10, 1.0), (20, 1.0), (30, 0.5), (40, 0.5)]
    assert [(one["step"], one["loss"]) for one in log.read(workdir / "metrics.jsonl")] == want
    assert shown(workdir / "tensorboard")["loss"] == want
    assert [(e.step, e.value) for e in watching.Reload().Scalars("loss")] == want  # one that has looked on all the time


def test_the_bar_shows_what_matters(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with log.progress(100, 40) as bar:
        log.show(bar, {"loss": 1.25, "samples_per_second": 80.04, "mfu": 0.4321})
        assert (bar.total, bar.n) == (100, 40)
        assert bar.postfix == "loss=1.2500, samples/s=80.0, MFU=43.2 %"


def test_a_file_gets_a_plain_line_every_tenth_of_the_run(capsys):
    with log.progress(40, 18) as bar:
        bar.clock = lambda: bar.begun + 2.0 * (bar.n - 18)
        for step in range(19, 41):
            if step == 23:
                log.show(bar, {"loss": 1.25, "samples_per_second": 80.04})
            bar.update()
    err = capsys.readouterr().err
    assert "\r" not in err
    steps = [20, 24, 28, 32, 36, 40]
    lines = err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == [f"instructblip train: step {step}" for step in steps]
    assert lines[0].endswith(" of 40 (50 %), 00:04 elapsed, 00:40 left")
    assert lines[1].endswith(" of 40 (60 %), loss 1.2500, samples/s 80.0, 00:12 elapsed, 00:32 left")
    assert lines[-1].endswith("(100 %), loss 1.2500, samples/s 80.0, 00:44 elapsed, 00:00 left")


def test_what_becomes_known_of_a_logged_step_joins_its_line(workdir):
    metrics_log = start(workdir)
    metrics_log.write(entry(10, 1.0))
    metrics_log.write({"step": 10, "time": 1.8e9, "validation": {"own": 0.5}})
    metrics_log.write({"step": 15, "time": 1.8e9, "validation": {"own": 0.25}})
    written = log.read(workdir / "metrics.jsonl")
    assert written == [
        entry(10, 1.0) | {"time": 1.8e9, "validation": {"own": 0.5}},
        {"step": 15, "time": 1.8e9, "validation": {"own": 0.25}},
    ]
    assert metrics_log.losses() == [1.0]
    assert [metrics_log.validated(step) for step in (5, 10, 15)] == [False, True, True]
    scalars = shown(workdir / "tensorboard")
    assert scalars["validation/own"] == [(10, 0.5), (15, 0.25)]
    assert scalars["loss"] == [(10, 1.0)]
