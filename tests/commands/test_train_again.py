"""`train` in a workdir that was begun: over other data, beside another run, further than it was meant to go."""

import dataclasses
import json
import shutil

import pytest
import toys

from instructblip_jax.data import places, prepared
from instructblip_jax.datasets.digits.records import make
from instructblip_jax.datasets.prepare import write
from instructblip_jax.model import InstructBlip
from instructblip_jax.run import open_data
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.train import log
from instructblip_jax.train.optimizer import OptimConfig, schedule


@pytest.fixture
def begun(finished, tmp_path):
    """The workdir of a run that was killed just before its end."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "train.json").unlink()
    return workdir


@pytest.fixture
def loaded(monkeypatch) -> list:
    """A model that was asked for; none is loaded."""
    asked: list = []

    def load(*args, **_):
        asked.append(args)
        raise ValueError("as far as the model")

    monkeypatch.setattr(InstructBlip, "from_pretrained", load)
    return asked


@pytest.fixture
def count(world):
    """The set "count", to be prepared anew; it comes back afterwards."""
    there, kept = world / "sets" / "count", world / "kept"
    there.rename(kept)
    yield lambda records: write.write(world / "sets", "count", {"train": records})
    shutil.rmtree(there)
    kept.rename(there)


def another_answer(changed: int):
    """The records of the set, but that one has another answer of the same length."""
    for n, record in enumerate(make("count", "train", 0, 16)):
        (answer,) = record.answers
        yield dataclasses.replace(record, answers=("2" if answer == "1" else "1",)) if n == changed else record


@pytest.mark.parametrize(
    "records",
    [lambda: make("count", "train", 0, 17), lambda: make("count", "train", 1, 17), lambda: another_answer(7)],
    ids=["one more", "others", "one answer"],
)
def test_a_set_that_was_prepared_anew_from_other_rows_is_refused(cli, world, begun, count, loaded, records):
    count(records)
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.is_file()}
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={begun}")
    assert result.code == 1
    assert result.err == (
        f"instructblip train: {begun}/checkpoints/30: trained on other records than count holds now; was it prepared "
        "again? Restore its former records, or train from the start in another --workdir\n"
    )
    assert not loaded  # which takes minutes
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.is_file()} == before | {
        begun / "train.lock": (begun / "train.lock").stat().st_mtime_ns
    }


def test_a_set_that_was_prepared_anew_from_the_same_rows_is_the_same(cli, world, begun, count, loaded):
    """Nor does it matter when its files were written, or which other splits there are."""
    count(lambda: make("count", "train", 0, 16))
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={begun}")
    assert result.err == "instructblip train: as far as the model\n"


def test_sets_are_known_wherever_they_lie(world, tmp_path):
    one = prepared.open_set(world / "sets", "count", "train")
    two = prepared.open_set(shutil.copytree(world / "sets", tmp_path / "elsewhere"), "count", "train")
    assert one.digest == two.digest
    told = json.loads((one.directory / "report.json").read_text())["splits"]
    assert one.digest == told["train"]["digest"]  # of all records: the middle of a large file counts, too
    assert (
        len({prepared.open_set(world / "sets", "count", split).digest for split in ("train", "test", "train+test")})
        == 3
    )


def test_a_set_of_an_earlier_version_is_known_by_its_files(world, tmp_path):
    def old(name: str, records: int):
        toys.write_sets(tmp_path / name, {"count": records})
        path = places.directory_of(tmp_path / name, "count") / "report.json"
        report = json.loads(path.read_text())
        for split in report["splits"].values():
            del split["digest"]
        path.write_text(json.dumps(report))
        return prepared.open_set(tmp_path / name, "count", "train").digest

    one, same, other = old("a", 16), old("b", 16), old("c", 17)
    assert one == same != other


def test_a_second_run_in_a_workdir_is_refused_at_once(cli, world, begun, loaded):
    with Workdir(str(begun)).held():
        result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={begun}")
    assert result.code == 1
    assert result.err.startswith(f"instructblip train: {begun}: another `train` is running here (process ")
    assert result.err.count("\n") == 1
    assert not loaded


def test_what_can_be_refused_is_refused_before_anything_takes_long(cli, world, tmp_path, loaded, monkeypatch):
    made: list = []
    monkeypatch.setattr(open_data, "prepare_missing", lambda *args: made.append(args))
    run = tmp_path / "run"
    given = ("train", f"--config={world / 'tiny.py'}")
    for more, words in (
        (["--workdir=/proc/nope"], "/proc/nope: cannot be written to"),
        ([f"--workdir={run}", "--config.mixture.sets=('caption', 'mine')"], "mine/3.0.0: no such prepared set"),
        ([f"--workdir={run}", "--config.mixture.sets=('caption', 'count:dev')"], "count/3.0.0: has no split 'dev'"),
        ([f"--workdir={run}", "--config.validate_every=-2"], "config.validate_every is -2"),
    ):
        result = cli(*given, *more)
        assert result.code == 1
        assert words in result.err
        assert result.err.count("\n") == 1
    assert (made, loaded) == ([], [])
    assert not run.exists()


def test_a_finished_run_is_trained_on(cli, world, finished, tmp_path):
    workdir, report = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    more = ("--config.steps=33", f"--json={tmp_path / 'more.json'}")
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", *more)
    assert result.code == 0, result.err
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=5, clip_norm=1.0)
    stood, goes_on = (float(schedule(optim, steps)(30)) for steps in (30, 33))
    assert f"the learning rate goes from {stood:.3g} to {goes_on:.3g}\n" in result.out
    assert "training on: 33 steps where 30 were planned" in result.out
    assert "from step 30" in result.out
    longer = json.loads((tmp_path / "more.json").read_text())
    assert longer["steps"] == 33
    assert len(longer["losses"]) == 33
    assert longer["losses"][:30] == report["losses"]
    assert json.loads((workdir / "train.json").read_text()) == longer
    assert json.loads((workdir / "config.json").read_text())["steps"] == 33
    rates = [entry["learning_rate"] for entry in log.read(Workdir(str(workdir)).metrics)]
    assert rates[30:] == pytest.approx([float(schedule(optim, 33)(n)) for n in (30, 31, 32)], rel=1e-4)
    again = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}", *more)
    assert again.code == 0
    assert "already trained to step 33" in again.out
    shorter = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={workdir}")
    assert shorter.code == 1
    assert "steps (there 33, here 30)" in shorter.err
