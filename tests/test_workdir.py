"""What a run leaves in W, read by another version of the code than the one that wrote it."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from instructblip_jax.config import RunConfig, resolve
from instructblip_jax.workdir import Workdir

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
