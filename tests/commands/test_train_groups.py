"""Runs whose steps have a batch of each group of sets: what they log, and where they go on."""

import importlib.util
import json
import re
import runpy
import shutil

import numpy as np
import pytest
import toys

from instructblip_jax.commands import plan
from instructblip_jax.data.documents import DocumentsConfig
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.plan import compiled, flops, tracing
from instructblip_jax.run import open_data
from instructblip_jax.run.check import check
from instructblip_jax.run.config import RunConfig, resolve, saved

STEPS = 6


@pytest.fixture(scope="module")
def config(world, tmp_path_factory):
    """tiny.py with two groups of other sizes and lengths."""
    path = tmp_path_factory.mktemp("groups") / "groups.py"
    path.write_text(
        (world / "tiny.py").read_text()
        + f"""
tiny = get_config

def get_config():
    config = tiny()
    config.mixture.sets = ()
    config.mixture.groups = {{
        "captions": {{"sets": ("caption", "count"), "batch_size": 8, "weight": 1.0}},
        "places": {{"sets": ("digit_at",), "batch_size": 4, "weight": 0.25, "response_lengths": (8,)}},
    }}
    config.batch_size, config.steps, config.checkpoint_every, config.validate_every = 12, {STEPS}, 3, {STEPS}
    config.mesh.data, config.log_examples = 1, True
    return config
"""
    )
    return path


@pytest.fixture(scope="module")
def run(config, process):
    """Runs the configuration in a workdir; returns what --json holds, and the output."""

    def run(workdir, *more, devices=1):
        report = workdir.with_suffix(".json")
        given = (f"--config={config}", f"--workdir={workdir}", f"--json={report}", *more)
        result = process("train", *given, devices=devices)
        assert result.code == 0, result.err
        return json.loads(report.read_text()), result.out

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, *run(workdir)


def entries(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_each_step_has_a_batch_of_each_group(whole):
    workdir, _, said = whole
    assert "group captions, 8 rows of each step, weight 1: caption" in said
    assert "group places, 4 rows of each step, weight 0.25: digit_at 100.0 %" in said
    logged = entries(workdir)
    assert len(logged) == STEPS
    for number, entry in enumerate(logged, 1):
        terms = entry["terms"]
        assert entry["loss"] == pytest.approx(terms["captions/lm"] + 0.25 * terms["places/lm"], rel=1e-6)
        samples = entry["samples"]
        assert (samples["caption"] + samples["count"], samples["digit_at"]) == (8 * number, 4 * number)
        assert entry["losses"]["digit_at"] == pytest.approx(terms["places/lm"], rel=1e-5)
    assert logged[-1]["validation"].keys() == {"caption", "count", "digit_at"}
    (path,) = (workdir / "examples").glob("*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row["rows"] == list(range(12)) for row in rows)
    for row in rows:
        assert {uid.split("/")[0] for uid in row["uid"][:8]} <= {"caption", "count"}
        assert {uid.split("/")[0] for uid in row["uid"][8:]} == {"digit_at"}


def test_a_run_goes_on_where_it_stopped_to_the_bit(run, whole, tmp_path):
    """As after a kill between the checkpoints of steps 3 and 6."""
    before, report, _ = whole
    workdir = tmp_path / "run"
    shutil.copytree(before, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    (workdir / "train.json").unlink()
    again, said = run(workdir)
    assert "; from step 3" in said
    assert again["weights_sha256"] == report["weights_sha256"]
    assert again["losses"] == report["losses"]
    (path,) = (workdir / "examples").glob("from-00000003-*")
    (first,) = (before / "examples").glob("*.jsonl")
    assert path.read_text().splitlines() == first.read_text().splitlines()[3:]


@pytest.mark.long  # train/test_groups.py
def test_four_devices_train_as_one(run, whole, tmp_path):
    run(tmp_path / "run", "--config.mesh.data=2", "--config.mesh.fsdp=2", devices=4)
    want = [entry["loss"] for entry in entries(whole[0])]
    assert [entry["loss"] for entry in entries(tmp_path / "run")] == pytest.approx(want, rel=1e-3)


# Fields


def made(**changes) -> RunConfig:
    groups = {"a": {"sets": ("count",), "batch_size": 4}, "b": {"sets": ("caption",), "batch_size": 8, "weight": 0.5}}
    fields = {"model": "M", "steps": 1, "batch_size": 12, "mixture": {"groups": groups}}
    for path, value in changes.items():
        section = fields
        *parts, last = path.split("__")
        for part in parts:
            section = section.setdefault(part, {})
        section[last] = value
    return saved(fields, "config.json")


def test_groups_are_read_and_overridden(config):
    spec = importlib.util.spec_from_file_location("groups", config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = resolve(module.get_config())
    assert run.mixture.all_sets == ("caption", "count", "digit_at")
    assert run.mixture.groups["places"].response_lengths == (8,)
    assert run.mixture.groups["captions"].weight == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixture__sets": ("count",)}, "config.mixture.sets and config.mixture.groups are both given"),
        ({"batch_size": 8}, "config.batch_size is 8, and the groups' are 12 together; set it to that"),
        ({"mixture__groups__a__sets": ("caption",)}, "config.mixture.groups: caption is in several groups"),
        ({"mixture__groups__b__weight": 0.0}, "config.mixture.groups.b.weight is 0.0; it must be positive"),
        ({"mixture__groups__b__batch_size": 0}, "config.mixture.groups.b.batch_size 0 is not a multiple of 1"),
        ({"mixture__groups__b__response_lengths": (0,)}, "config.mixture.groups.b.response_lengths is (0,)"),
        ({"mixture__weights": {"gqa": 1.0}}, "config.mixture.weights names gqa, which no group has"),
        ({"steps": 0, "epochs": 2.0}, "config.epochs: groups have passes of different lengths"),
        ({"mixture__groups": {"a/b": {"sets": ("x",), "batch_size": 12}}}, "'a/b' cannot be a group's name"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check(made(**changes), single_device_mesh())
    check(made(), single_device_mesh())


def test_the_papers_mixtures_are_groups():
    runs = {}
    for name in ("flamingo_9b", "kosmos1"):
        config = runpy.run_path(str(toys.ROOT / "configs" / f"{name}.py"))["get_config"]()
        runs[name] = resolve(config)
        check(runs[name], single_device_mesh())
    flamingo, kosmos = (run.mixture.groups for run in runs.values())
    assert {name: group.weight for name, group in flamingo.items()} == {"pages": 1.0, "pairs": 0.2}
    assert runs["flamingo_9b"].data.documents == DocumentsConfig(256, 5, window=True)
    assert sum(group.weight for group in kosmos.values()) == pytest.approx(1)
    assert runs["kosmos1"].data.documents.pack


def test_a_step_of_groups_is_planned(world, monkeypatch):
    """As one program over all batches, at the largest shape of each; its work is that of all of them."""
    run = made(model=str(world / "model"), mixture__groups__b__instruction_lengths=(8, 16))
    timed, _ = plan.settings(run, [32, 16])
    assert [(group.name, group.rows, group.lengths.prompt, group.weight) for group in timed.groups] == [
        ("a", 4, 128, 1.0),
        ("b", 8, 16, 0.5),
    ]
    batch = compiled.batch_of(timed, single_device_mesh())
    shapes = {name: x.shape for name, x in batch.items()}
    assert {name.partition("/")[0]: shape[0] for name, shape in shapes.items()} == {"a": 4, "b": 8}
    monkeypatch.setattr(tracing, "gradients", lambda system, batch: batch)
    monkeypatch.setattr(flops, "count", lambda batch: sum(x.size for x in batch.values()))
    described = tracing.describe(timed.model)
    assert flops.of_batch(described, shapes) == sum(x.size for x in batch.values())


def test_rows_of_a_step_follow_one_another():
    group = lambda rows, own: open_data.Group(rows, 1.0, {}, [], False, (), np.array(own), lambda: None)
    data = open_data.Data("", {}, {}, 1, {"a": group(4, [2, 3]), "b": group(6, [0, 1, 2])})
    assert data.own.tolist() == [2, 3, 4, 5, 6]
