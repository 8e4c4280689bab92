"""A preemption notice that one process of a job gets: all of them save the same step and end."""

import json
import signal
import time


def test_sigterm_to_one_process_ends_the_job_after_one_step_and_it_goes_on_from_there(start, world, tmp_path):
    workdir = tmp_path / "run"
    argv = ["train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--config.checkpoint_every=1000"]
    job = start(2, *argv, "--config.steps=2000")
    log = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not log.exists() or log.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline, job.results()
        assert all(process.poll() is None for process in job.processes), job.results()
        time.sleep(0.02)
    job.processes[1].send_signal(signal.SIGTERM)  # not to the one that writes
    first, second = job.wait(120)
    assert (first.code, second.code) == (143, 143), (first.err, second.err)
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    told = f"instructblip train: stopped by SIGTERM after step {last}; the same command goes on from there"
    assert told in first.err
    assert "stopped by" not in second.err  # one of them talks
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == [str(last)]
