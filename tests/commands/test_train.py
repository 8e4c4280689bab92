"""Runs of `train`: killed, poisoned, repeated, on other devices; bit for bit. And what follows on them."""

import json
import shutil

import numpy as np
import pytest
import toys
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.data.loader import training_batches
from instructblip_jax.model import InstructBlip
from instructblip_jax.run import open_data
from instructblip_jax.run.checkpoint import weights_sha256
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.train import log

STEPS = 30  # with a checkpoint every seven steps
MESH = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")  # of this process's eight devices


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


def test_a_finished_run_returns_at_once_with_the_same_report(world, finished, cli, monkeypatch):
    workdir, report = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    monkeypatch.setattr(InstructBlip, "from_pretrained", None)  # no model is loaded
    result = cli(
        "train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", f"--json={workdir.parent}/again.json"
    )
    assert result.code == 0
    assert "already trained" in result.out
    assert json.loads((workdir.parent / "again.json").read_text()) == report
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


def test_eight_devices_lose_what_one_does_and_a_line_is_the_mean_over_all_tokens_since_the_one_before(
    cli, world, finished, tmp_path
):
    """In this process, which has eight; logged every four steps, and killed and resumed between two logged ones."""
    steps = log.read(Workdir(str(finished[0])).metrics)
    windows = [steps[first : first + 4] for first in range(0, STEPS, 4)]
    tokens = [sum(line["tokens"] for line in window) for window in windows]
    losses = [sum(line["loss"] * line["tokens"] for line in window) for window in windows]
    given = ("train", f"--config={world / 'tiny.py'}", f"--json={tmp_path / 'run.json'}", "--config.log_every=4", *MESH)
    run = tmp_path / "run"
    result = cli(*given, f"--workdir={run}", "--config.validate_every=15")
    assert result.code == 0, result.err
    assert "; 8 x cpu, mesh data 2 x fsdp 2 x tensor 2; from the start" in result.out
    eight = json.loads((tmp_path / "run.json").read_text())
    np.testing.assert_allclose(eight["losses"], np.divide(losses, tokens), rtol=2e-5)
    lines = log.read(Workdir(str(run)).metrics)
    assert [line["tokens"] for line in lines if "loss" in line] == tokens
    validation = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert [set(validation[step]) for step in (15, 30)] == [{"caption", "digit_at", "count"}] * 2
    assert len(validation) == 2
    assert sum(validation[30].values()) < sum(validation[15].values())
    assert "validation loss after step 15: caption " in result.err

    # Gone on with from step 21, without validation: it has changed nothing that was learned.
    (run / "train.json").unlink()
    for step in (28, 30):
        shutil.rmtree(run / "checkpoints" / str(step))
    result = cli(*given, f"--workdir={run}", "--config.validate_every=0")
    assert result.code == 0, result.err
    assert "from step 21" in result.out
    again = json.loads((tmp_path / "run.json").read_text())
    assert again["losses"] == eight["losses"]
    assert again["weights_sha256"] == eight["weights_sha256"]


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


class Poisoned:
    """Training batches, of which the tenth holds no numbers."""

    def __init__(self, *args, **kwargs):
        self.data, self.step = training_batches(*args, **kwargs), 0
        self.get_state = self.data.get_state

    def set_state(self, state):  # also after the first batch was looked at
        self.data.set_state(state)
        self.step = 0

    def __next__(self):
        batch, self.step = dict(next(self.data)), self.step + 1
        if self.step == 10:
            batch["pixel_values_scale"] = np.full_like(batch["pixel_values_scale"], np.nan)
        return batch


def test_a_loss_that_is_no_number_stops_the_run_and_the_last_checkpoint_is_kept(cli, world, tmp_path, monkeypatch):
    """That a run goes on from a checkpoint as if nothing had been: above."""
    workdir = tmp_path / "run"
    monkeypatch.setattr(open_data, "training_batches", Poisoned)
    done = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", *MESH)
    assert done.code == 1, done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("instructblip train: step 10: loss nan")
    assert "lower optim.learning_rate" in last
    assert last.endswith(f"(the step's examples: {workdir / 'diverged.json'})")
    record = json.loads((workdir / "diverged.json").read_text())
    assert (record["step"], record["loss"], len(record["uids"])) == (10, "nan", 8)
    assert all(uid.split("/")[1] == "train" for uid in record["uids"])
    assert "Traceback" not in done.err
    assert checkpoints(workdir) == [7]
    assert not (workdir / "train.json").exists()


def test_a_run_without_a_checkpoint_does_not_keep_its_workdir_from_a_better_configuration(
    cli, world, finished, tmp_path
):
    """Such as one that diverged at once: there is nothing yet that the two could mix."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "train.json").unlink()
    shutil.rmtree(workdir / "checkpoints")
    better = ("--config.optim.learning_rate=1e-4", "--config.model=nowhere")
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", *better)
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


def test_a_checkpoint_over_other_towers_is_refused(cli, world, finished, tmp_path):
    """The model directory was replaced by another one of the same form."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "train.json").unlink()
    model = world / "model"
    kept = model.rename(world / "kept")
    try:
        toys.write_model(model, seed=1)
        for command in ("train", "evaluate"):
            result = cli(command, f"--config={world / 'tiny.py'}", f"--workdir={workdir}")
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


def test_evaluate_writes_the_table_the_json_and_the_predictions(process, cli, world, finished, tmp_path):
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
    page = (workdir / "predictions.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count("<tr>") - 2 == 16  # two sets of 8, and their heads
    assert "![](predictions/media/" in str(ib.show(workdir, "count"))
    said = predictions(workdir)
    absent = cli("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--checkpoint=22")
    assert absent.code == 1
    assert "has no checkpoint of step 22; there are [21, 28, 30]" in absent.err.splitlines()[-1]
    assert predictions(workdir) == said

    # An older step's answers are those of a run that ended there, and others than the newest one's.
    older = process("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", "--checkpoint=21")
    assert older.code == 0, older.err
    assert json.loads((workdir / "evaluation.json").read_text())["step"] == 21
    copy = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("predictions", "28", "30"))
    alone = process("evaluate", f"--config={world / 'tiny.py'}", f"--workdir={copy}")
    assert alone.code == 0, alone.err
    assert predictions(workdir) == predictions(copy) != said


def test_a_run_is_loaded_from_its_workdir_alone(cli, world, finished, tmp_path):
    model, processor = ib.from_run(finished[0])
    assert weights_sha256(model.train) == finished[1]["weights_sha256"]
    assert "InstructBlip(" in repr(model)
    assert "float32" in repr(model)
    assert "mesh data 1 x fsdp 1 x tensor 1" in repr(model)
    picture, drawn = tmp_path / "a.png", tmp_path / "look.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(picture)
    asked = ["which digit is red ?", "how many digits are there ?"]
    given = [f"--workdir={finished[0]}", f"--image={picture}", "--max_new_tokens=4"]
    result = cli("answer", *given, f"--look={drawn}", *asked)
    assert result.code == 0, result.err
    want = ib.generate(model, processor, [picture] * 2, asked, max_new_tokens=4)
    assert result.out.splitlines() == want
    assert "with the instruction, without the instruction" in result.err
    with Image.open(drawn) as image:
        assert image.size == (4 * 240 + 3 * 8, 2 * (240 + 20 + 20) + 8)  # a row an instruction, with its titles
    earlier, _ = ib.from_run(finished[0], checkpoint=21, model=world / "model")
    assert weights_sha256(earlier.train) != finished[1]["weights_sha256"]
    with pytest.raises(ValueError, match="is the workdir of a run, not a model"):
        ib.from_pretrained(finished[0])
    moved = tmp_path / "run"
    shutil.copytree(finished[0], moved)
    fields = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(fields | {"model": "gone"}))
    with pytest.raises(FileNotFoundError, match=r"config.json: model: gone: no such .+ name its place"):
        ib.from_run(moved)


def predictions(workdir) -> dict[str, str]:
    return {path.name: path.read_text() for path in (workdir / "predictions").glob("*[a-z].jsonl")}


def test_answers_come_from_the_trained_parameters(cli, world, finished, tmp_path):
    workdir, _ = finished
    pictures = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for grey, path in zip((30, 220), pictures, strict=True):
        Image.new("RGB", (31, 17), (grey,) * 3).save(path)
    asked = [*(f"--image={path}" for path in pictures), "which digit ?", "read the top row", "--max_new_tokens=5"]
    result = cli("answer", f"--model={world / 'model'}", f"--workdir={workdir}", f"--json={tmp_path}/a.json", *asked)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert [(row["image"], row["instruction"]) for row in rows] == [
        (str(path), text) for path in pictures for text in ("which digit ?", "read the top row")
    ]
    assert result.out.splitlines() == [row["answer"] for row in rows]
    untrained = cli("answer", f"--model={world / 'model'}", "--dtype=float32", *asked)
    assert untrained.code == 0, untrained.err
    assert untrained.out != result.out
