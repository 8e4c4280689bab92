"""Weights & Biases beside TensorBoard, with a module in the package's place that remembers its calls."""

import dataclasses
import sys
import types

import pytest
from etils import epath
from ml_collections import ConfigDict

from instructblip_jax.mesh import make_mesh
from instructblip_jax.run import check
from instructblip_jax.run.config import resolve
from instructblip_jax.train import log, tracker


@pytest.fixture
def wandb(monkeypatch):
    """The calls of the package: arguments of `init`, and (step, values) of `log`."""
    calls = types.SimpleNamespace(init=[], logged=[], finished=0)

    class Run:
        def log(self, values, step):
            calls.logged.append((step, values))

        def finish(self):
            calls.finished += 1

    def init(**given):
        calls.init.append(given)
        return Run()

    module = types.ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_a_tracked_run_has_the_numbers_of_the_log(wandb, tmp_path):
    workdir = epath.Path(tmp_path / "first")
    workdir.mkdir()
    own = tracker.Tracker("digits", workdir, {"seed": 3})
    written = log.MetricsLog(workdir / "metrics.jsonl", workdir / "tensorboard", step=0, tracker=own)
    written.write({"step": 10, "time": 1.0, "loss": 2.5, "losses": {"count": 3.0}, "too_long": ["a"]})
    written.write({"step": 10, "validation": {"count": 1.0}, "time": 2.0})
    own.close()
    assert wandb.logged == [(10, {"loss": 2.5, "losses/count": 3.0}), (10, {"validation/count": 1.0})]
    assert wandb.finished == 1
    (given,) = wandb.init
    assert (given["project"], given["name"], given["dir"]) == ("digits", "first", str(workdir))
    assert (given["config"], given["resume"]) == ({"seed": 3}, "allow")


def test_a_resumed_run_is_the_same_one_and_another_workdir_another(wandb, tmp_path):
    for place in (tmp_path / "a", tmp_path / "a", tmp_path / "b", "gs://bucket/a"):
        tracker.Tracker("digits", epath.Path(place), {})
    first, again, other, remote = (given["id"] for given in wandb.init)
    assert first == again
    assert len({first, other, remote}) == 3
    assert wandb.init[3]["dir"] is None


def test_a_run_that_asks_for_it_is_refused_where_it_is_not_installed(monkeypatch):
    fields = {"model": "M", "steps": 1, "batch_size": 8, "mixture": {"sets": ("a",)}}
    run = resolve(ConfigDict(fields | {"wandb": "digits"}))
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"config.wandb is 'digits', .+ pip install -e '.\[wandb\]'"):
        check.check(run, make_mesh())
    check.check(dataclasses.replace(run, wandb=""), make_mesh())
