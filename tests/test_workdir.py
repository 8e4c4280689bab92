"""What a run leaves in W, read by another version of the code than the one that wrote it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from ml_collections import ConfigDict

from instructblip_jax.run.config import RunConfig, resolve
from instructblip_jax.run.workdir import Workdir
from instructblip_jax.sharding import Layout

FIELDS = {
    "model": "m",
    "steps": 5,
    "batch_size": 8,
    "data": {"directory": "d", "instruction_lengths": (40,)},
    "mixture": {"sets": ("count",), "weights": {"count": 2}},
    "evaluation": {"held_in": ("count",), "held_out": ()},
    "optim": {"learning_rate": 1e-2},
    "mesh": {"data": 1},
}


@pytest.fixture
def run() -> RunConfig:
    return resolve(ConfigDict(FIELDS))


@pytest.fixture
def workdir(run, tmp_path) -> Workdir:
    """Of a run that has begun."""
    workdir = Workdir(str(tmp_path / "w"))
    with workdir.held():
        workdir.claim(run)
    (workdir.path / "checkpoints" / "3").mkdir(parents=True)
    return workdir


def edit(workdir: Workdir, change) -> None:
    path = workdir.path / "config.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_a_run_is_read_as_it_was_written(workdir, run):
    assert workdir.saved_config() == run


def test_a_run_from_before_a_field_came_loads_and_goes_on(workdir, run):
    """The field takes its default, and is compared with it."""
    edit(workdir, lambda fields: (fields.pop("int8"), fields["optim"].pop("accumulation"), fields.pop("layout")))
    assert workdir.saved_config() == run
    workdir.check(run)
    with pytest.raises(ValueError, match=r"int8 \(there False, here True\)"):
        workdir.check(dataclasses.replace(run, int8=True))
    optim = dataclasses.replace(run.optim, accumulation=2)
    with pytest.raises(ValueError, match=r"another configuration: optim.accumulation \(there 1, here 2\)\. "):
        workdir.check(dataclasses.replace(run, optim=optim))


def test_a_run_from_before_systems_had_options_of_their_own(workdir, run, recwarn):
    """Its options, trainable set and layouts are those of a run that does not state them."""
    layouts = {"trained": "sharded", "vit": "sharded", "llm": "sharded"}
    old = {"instruct_qformer": True, "trainable": "qformer", "layout": layouts}
    edit(workdir, lambda fields: (fields.pop("system"), fields.update(old)))
    assert workdir.saved_config() == dataclasses.replace(run, trainable="qformer", layout=layouts)
    for name in ("", "qformer"):
        workdir.check(dataclasses.replace(run, trainable=name))
    with pytest.raises(ValueError, match=r"trainable \(there 'qformer', here 'original'\)"):
        workdir.check(dataclasses.replace(run, trainable="original"))
    with pytest.raises(ValueError, match=r"system\.instruct_qformer \(there None, here False\)"):
        workdir.check(dataclasses.replace(run, system={"instruct_qformer": False}))
    edit(workdir, lambda fields: fields.update(instruct_qformer=False))
    workdir.check(dataclasses.replace(run, system={"instruct_qformer": False}))
    assert not recwarn.list  # its user cannot do anything about it


def test_options_of_a_system_are_read_as_they_were_written(workdir, run):
    run = dataclasses.replace(run, system={"momentum": 0.995, "sizes": (1, 2), "name": "x"}, image_size=364)
    workdir.write_json("config.json", dataclasses.asdict(run))
    assert workdir.saved_config() == run
    workdir.check(run)
    assert run.system_options() == {"momentum": 0.995, "sizes": (1, 2), "name": "x", "image_size": 364}


def test_the_options_of_a_model_are_stated_once(run):
    run = dataclasses.replace(run, layout={"llm": "tensor"}, system={"momentum": 0.5}, int8=True)
    options = {"dtype": "bfloat16", "trainable": None, "layout": Layout(llm="tensor"), "remat": "none", "int8": True}
    options["scan_layers"] = True
    assert run.model_options() == {**options, "momentum": 0.5}
    assert run.model_options(int8=False, remat="layer") == {**options, "momentum": 0.5, "int8": False, "remat": "layer"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda fields: fields.update(teacher="t"), "teacher"),
        (lambda fields: fields["optim"].update(nesterov=True), "optim has no field nesterov"),
        (lambda fields: fields.pop("steps"), "steps"),
        (lambda fields: fields.update(steps="many"), "steps is 'many', not of type int"),
    ],
    ids=["gone", "gone inside", "absent", "of another type"],
)
def test_a_run_that_this_version_does_not_understand(workdir, run, change, field):
    edit(workdir, change)
    for ask in (workdir.saved_config, lambda: workdir.check(run)):
        with pytest.raises(ValueError, match=field) as caught:
            ask()
        assert str(workdir.path / "config.json") in str(caught.value)
        assert "the version that wrote it" in str(caught.value)


# Further steps


@pytest.mark.parametrize("change", [{"steps": 9}, {"steps": 9, "log_every": 3}])
def test_more_steps_of_the_same_run_are_its_continuation(workdir, run, change):
    more = dataclasses.replace(run, **change)
    assert workdir.check(more, further=True) == run
    with pytest.raises(ValueError, match=r"another configuration: steps \(there 5, here 9\)"):
        workdir.check(more)  # what `evaluate` asks
    workdir.write_json("train.json", {"steps": 5})
    with workdir.held():
        workdir.claim(more)
    assert workdir.saved_config() == more
    assert workdir.read_json("train.json") is None  # it is not finished any more
    assert workdir.check(more, further=True) is None


def test_more_epochs_are_too(tmp_path, run):
    workdir, once = Workdir(str(tmp_path / "w")), dataclasses.replace(run, steps=0, epochs=1.0)
    with workdir.held():
        workdir.claim(once)
    (workdir.path / "checkpoints" / "3").mkdir(parents=True)
    assert workdir.check(dataclasses.replace(once, epochs=2.5), further=True) == once
    with pytest.raises(ValueError, match="epochs"):
        workdir.check(dataclasses.replace(once, epochs=0.5), further=True)


@pytest.mark.parametrize(
    "change", [{"steps": 4}, {"steps": 9, "seed": 1}, {"steps": 0, "epochs": 9.0}], ids=["fewer", "seed", "epochs"]
)
def test_what_is_no_continuation_is_refused(workdir, run, change):
    with pytest.raises(ValueError, match=r"another configuration: .*steps \(there 5, here "):
        workdir.check(dataclasses.replace(run, **change), further=True)


# One run at a time

HOLD = """
import sys, time
from instructblip_jax.run.workdir import Workdir

with Workdir(sys.argv[1]).held():
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_run_is_refused_until_the_first_one_is_gone_however_it_went(tmp_path, environment):
    path = tmp_path / "w"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout.readline() == "held\n"
            with (
                pytest.raises(
                    ValueError, match=rf"^{path}: another `train` is running here \(process {first.pid} on .*--workdir$"
                ),
                Workdir(str(path)).held(),
            ):
                pass
            assert (path / "train.lock").exists()  # the refused one has not taken it away
        finally:
            os.kill(first.pid, signal.SIGKILL)
    with Workdir(str(path)).held():
        pass


def test_a_refused_run_leaves_nothing_and_a_begun_one_keeps_its_lock_file(tmp_path, run):
    workdir = Workdir(str(tmp_path / "w"))
    with workdir.held():
        assert [path.name for path in workdir.path.iterdir()] == ["train.lock"]
    assert not workdir.path.exists()
    workdir.path.mkdir()
    with workdir.held():
        pass
    assert not any(workdir.path.iterdir())  # it was there before
    with workdir.held():
        workdir.claim(run)
    assert {path.name for path in workdir.path.iterdir()} == {"train.lock", "config.json"}


def test_a_lock_whose_file_was_taken_away_meanwhile_is_none(tmp_path, monkeypatch):
    """The run before removes the file as it ends; whoever had opened it then must not hold what nobody sees."""
    from instructblip_jax.run import workdir as module

    path, flock, seen = tmp_path / "w" / "train.lock", module.fcntl.flock, []

    def late(fd, how):
        if not seen:
            path.unlink()
        seen.append(os.fstat(fd).st_ino)
        return flock(fd, how)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with Workdir(str(path.parent)).held():
        assert len(seen) == 2
        assert path.exists()


@pytest.mark.parametrize("where", ["/proc/nope", "/proc/1/nope"])
def test_a_workdir_that_cannot_be_written_is_refused(where):
    with (
        pytest.raises(ValueError, match=rf"^{where}: cannot be written to \(.*choose another --workdir$"),
        Workdir(where).held(),
    ):
        pass


def test_a_disk_that_is_full_is_seen(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    workdir = Workdir(str(tmp_path / "w"))
    monkeypatch.setattr(type(workdir.path), "write_text", full)
    with pytest.raises(ValueError, match=r"w: cannot be written to \(.*No space left"), workdir.held():
        pass


def test_two_writers_of_one_file_do_not_take_away_each_others_half(tmp_path):
    """Two `evaluate` of one W: each renames what it has written itself, and one of the two stays, whole."""
    workdir, failed = Workdir(str(tmp_path)), []

    def write(letter: str) -> None:
        try:
            for _ in range(200):
                workdir.write_text("evaluation.md", letter * 10_000)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert (tmp_path / "evaluation.md").read_text() in ("a" * 10_000, "b" * 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.md"]


def test_halves_that_a_killed_run_left_go_when_the_next_one_begins(tmp_path, run):
    (tmp_path / "metrics.jsonl.0011aabb.partial").write_text('{"step"')
    (tmp_path / "config.json.0011aabb.partial").write_text("{")
    (tmp_path / "evaluation.md.0011aabb.partial").write_text("|")  # of an `evaluate`, which may be at work
    workdir = Workdir(str(tmp_path))
    workdir.check(run)
    with workdir.held():
        workdir.claim(run)
    assert {path.name for path in tmp_path.iterdir()} == {"train.lock", "config.json", "evaluation.md.0011aabb.partial"}
