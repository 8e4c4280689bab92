"""Runs of `train`, each in a process of its own: killed, poisoned, repeated, on other devices; bit for bit."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import toys

STEPS = 30  # with a checkpoint every seven steps


def checkpoints(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def test_a_run_reports_and_leaves_what_it_says(finished):
    workdir, report = finished
    assert report["steps"] == STEPS
    assert len(report["losses"]) == STEPS
    assert np.isfinite(report["losses"]).all()
    assert np.mean(report["losses"][-5:]) < np.mean(report["losses"][:5])
    assert len(report["weights_sha256"]) == 64
    assert checkpoints(workdir) == [21, 28, 30]
    assert json.loads((workdir / "train.json").read_text()) == report
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in lines] == report["losses"]
    assert not [path for path in workdir.rglob("*") if "partial" in path.name or "tmp" in path.name]


def test_checkpoints_hold_nothing_frozen(finished, world):
    workdir, _ = finished
    saved = json.loads((workdir / "checkpoints" / "30" / "state" / "_METADATA").read_text())["tree_metadata"]
    paths = [[part["key"] for part in entry["key_metadata"]] for entry in saved.values()]
    trained = {path[1] for path in paths if path[0] == "train"}
    assert {path[0] for path in paths} == {"step", "train", "opt", "guard", "drawn"}
    assert {name.split("/")[0] for name in trained} == {"qformer", "query_tokens", "projector"}
    moments = [path[-1] for path in paths if path[0] == "opt" and "/" in path[-1]]
    assert set(moments) == {name for name in trained if "/" in name}
    assert len(moments) == 2 * len(set(moments))


def test_a_finished_run_returns_at_once_with_the_same_report(process, world, finished, cli):
    workdir, report = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    start = time.monotonic()
    result = cli(
        "train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", f"--json={workdir.parent}/again.json"
    )
    assert result.code == 0
    assert "already trained" in result.out
    assert time.monotonic() - start < 10  # no model is loaded, nothing compiled
    assert json.loads((workdir.parent / "again.json").read_text()) == report
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


def test_eight_devices_lose_what_one_does(train, finished, tmp_path):
    _, report = finished
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    result, eight = train(tmp_path / "run", *mesh, devices=8)
    assert result.code == 0, result.err
    assert "data 2 x fsdp 2 x tensor 2" in result.out
    np.testing.assert_allclose(eight["losses"], report["losses"], rtol=2e-5)


# SIGKILL; at random moments: test_kills.py


@pytest.mark.parametrize("lost", [[], [28, 30]], ids=["at the very end", "while it saved"])
def test_a_run_killed_at_a_certain_moment_goes_on_from_the_last_whole_checkpoint(train, finished, tmp_path, lost):
    """After the last checkpoint, before the report; and in the middle of writing a checkpoint."""
    _, report = finished
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "train.json").unlink()
    for step in lost:
        half = (workdir / "checkpoints" / str(step)).rename(workdir / "checkpoints" / f"{step}.orbax-checkpoint-tmp")
        (half / "commit_success.txt").unlink()
        shutil.rmtree(half / "state")
    result, again = train(workdir)
    assert result.code == 0, result.err
    assert f"from step {21 if lost else STEPS}" in result.out
    assert again["weights_sha256"] == report["weights_sha256"]
    assert again["losses"] == report["losses"]


# NaN

POISONED = """
import sys
import numpy as np
from instructblip_jax.commands import train

make = train.training_batches

class Poisoned:
    def __init__(self, *args, **kwargs):
        self.data, self.step = make(*args, **kwargs), 0
        self.get_state = self.data.get_state

    def set_state(self, state):  # also after the first batch was looked at
        self.data.set_state(state)
        self.step = 0

    def __next__(self):
        batch, self.step = dict(next(self.data)), self.step + 1
        if self.step == 10:
            batch["pixel_values"] = np.full_like(batch["pixel_values"], np.nan)
        return batch

train.training_batches = Poisoned
from instructblip_jax.__main__ import main
sys.exit(main())
"""


def test_a_loss_that_is_no_number_stops_the_run_and_the_last_checkpoint_serves(
    train, environment, world, finished, tmp_path
):
    _, report = finished
    workdir = tmp_path / "run"
    command = [sys.executable, "-c", POISONED, "train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("instructblip train: step 10: loss nan")
    assert last.endswith(f"(the step's examples: {workdir / 'diverged.json'})")
    record = json.loads((workdir / "diverged.json").read_text())
    assert (record["step"], record["loss"], len(record["uids"])) == (10, "nan", 8)
    assert all(uid.split("/")[1] == "train" for uid in record["uids"])
    assert "Traceback" not in done.stderr
    assert checkpoints(workdir) == [7]
    assert not (workdir / "train.json").exists()
    result, again = train(workdir)  # without the poison it goes on, and ends as if nothing had been
    assert result.code == 0, result.err
    assert "from step 7" in result.out
    assert again["weights_sha256"] == report["weights_sha256"]
    assert again["losses"] == report["losses"]


@pytest.fixture(scope="module")
def diverged(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("diverged") / "run"
    absurd = ("--config.optim.learning_rate=1e30", "--config.optim.warmup_steps=0", "--config.optim.clip_norm=0.0")
    result, report = train(workdir, *absurd)
    assert report is None
    return workdir, result


def test_an_absurd_learning_rate_is_told(diverged):
    workdir, result = diverged
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("instructblip train: step ")
    assert "learning_rate" in last
    assert checkpoints(workdir) == []


def test_a_run_without_a_checkpoint_does_not_keep_its_workdir_from_a_better_configuration(cli, world, diverged):
    """It advises another learning rate and to start again; there is nothing yet that the two could mix."""
    workdir, _ = diverged
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--config.model=nowhere")
    assert "nowhere: no such model" in result.err  # the model is looked for after the workdir


# What else may stand in a workdir


def test_another_configuration_is_refused_and_changes_nothing(cli, world, finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    changes = ("--config.optim.learning_rate=0.5", "--config.steps=40", "--config.mixture.sets=('count',)")
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", *changes)
    assert result.code == 1
    assert result.out == ""
    for word in (
        str(workdir),
        "another configuration",
        "optim.learning_rate",
        "0.5",
        "steps (there 30, here 40)",
        "mixture.sets",
    ):
        assert word in result.err
    assert "batch_size" not in result.err
    assert result.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_what_changes_nothing_that_is_learned_may_differ(cli, world, finished):
    workdir, _ = finished
    free = (
        "--config.log_every=3",
        "--config.checkpoint_every=100",
        "--config.mesh.fsdp=2",
        "--config.evaluation.batch_size=4",
    )
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", *free)
    assert result.code == 0, result.err


def test_a_checkpoint_over_other_towers_is_refused(process, world, finished, tmp_path):
    """The model directory was replaced by another one of the same form."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "train.json").unlink()
    model = world / "model"
    kept = model.rename(world / "kept")
    try:
        toys.write_model(model, seed=1)
        for command in ("train", "evaluate"):
            result = process(command, f"--config={world / 'tiny.py'}", f"--workdir={workdir}")
            assert result.code == 1
            assert "trained over another model" in result.err.splitlines()[-1]
        assert checkpoints(workdir) == checkpoints(finished[0])
    finally:
        shutil.rmtree(model)
        kept.rename(model)


def test_a_run_that_was_killed_while_it_claimed_its_workdir_can_start_again(cli, world, tmp_path):
    """Before config.json is renamed into place, its partial file is all there is."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json.partial").write_text('{"model": ')
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--config.model=nowhere")
    assert "nowhere: no such model" in result.err  # the model is looked for after the workdir


# evaluate and answer on what was trained


def test_evaluate_writes_the_table_the_json_and_the_predictions(process, world, finished, tmp_path):
    workdir, _ = finished
    json_file = tmp_path / "evaluation.json"
    result = process("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", f"--json={json_file}")
    assert result.code == 0, result.err
    report = json.loads(json_file.read_text())
    assert json.loads((workdir / "evaluation.json").read_text()) == report
    assert report["step"] == STEPS
    assert report["seconds"] > 0
    for name, split in (("count", "held_in"), ("digit_of", "held_out")):
        row = report["sets"][name]
        lines = [json.loads(line) for line in (workdir / "predictions" / f"{name}.jsonl").read_text().splitlines()]
        assert (
            (row["split"], row["metric"], row["count"])
            == (split, "exact_match", 8)
            == (split, "exact_match", len(lines))
        )
        assert row["value"] == np.mean([line["prediction"] in line["answers"] for line in lines])
        assert row["blind"] == np.mean([line["blind"] in line["answers"] for line in lines])
        assert [line["uid"].rsplit("/", 1)[0] for line in lines] == [f"{name}/test"] * 8
    assert report["held_in_mean"] == report["sets"]["count"]["value"]
    assert report["held_out_mean_blind"] == report["sets"]["digit_of"]["blind"]
    table = (workdir / "evaluation.md").read_text()
    assert table in result.out
    older = process("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--checkpoint=21")
    assert older.code == 0, older.err
    assert json.loads((workdir / "evaluation.json").read_text())["step"] == 21
    absent = process("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--checkpoint=22")
    assert absent.code == 1
    assert "no checkpoint of step 22; there are [21, 28, 30]" in absent.err.splitlines()[-1]


def test_answers_come_from_the_trained_parameters(process, world, finished, tmp_path):
    workdir, _ = finished
    from PIL import Image

    pictures = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for grey, path in zip((30, 220), pictures, strict=True):
        Image.new("RGB", (31, 17), (grey,) * 3).save(path)
    asked = [*(f"--image={path}" for path in pictures), "which digit ?", "read the top row", "--max_new_tokens=5"]
    result = process(
        "answer", f"--model={world / 'model'}", f"--workdir={workdir}", f"--json={tmp_path}/a.json", *asked
    )
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert [(row["image"], row["instruction"]) for row in rows] == [
        (str(path), text) for path in pictures for text in ("which digit ?", "read the top row")
    ]
    assert result.out.splitlines() == [row["answer"] for row in rows]
    untrained = process("answer", f"--model={world / 'model'}", "--dtype=float32", *asked)
    assert untrained.code == 0, untrained.err
    assert untrained.out != result.out
