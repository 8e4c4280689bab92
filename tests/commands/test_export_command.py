"""The command `export`: a run's trained parameters as a Hugging Face directory, without loading the model."""

import dataclasses
import json
import runpy
import shutil

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import instructblip_jax as ib
from instructblip_jax.run.checkpoint import fingerprint
from instructblip_jax.run.config import resolve
from instructblip_jax.run.workdir import Workdir


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A workdir as `train` leaves one, of two steps, and the arrays of the second."""
    run = dataclasses.replace(resolve(runpy.run_path(str(world / "tiny.py"))["get_config"]()), trainable="original")
    workdir = Workdir(str(tmp_path_factory.mktemp("trained") / "run"))
    workdir.claim(run)
    model = ib.InstructBlip.from_pretrained(world / "model", dtype="float32", trainable="original")
    store, source = workdir.checkpoints(), fingerprint(world / "model")
    for step in (1, 2):
        train = {path: x + step for path, x in model.train.items()}
        store.save(
            step, {"step": jnp.int32(step), "train": train, "opt": {"moment": jnp.zeros(3)}}, {"at": step}, source
        )
        jax.block_until_ready(train)
    store.close()
    return workdir.path, checkpoints.host(train)


def test_the_newest_step_is_written_and_the_model_is_not_loaded(cli, world, trained, tmp_path, monkeypatch):
    workdir, train = trained
    monkeypatch.setattr(ib.InstructBlip, "from_pretrained", lambda *args, **options: pytest.fail("was loaded"))
    given = [f"--model={world / 'model'}", f"--workdir={workdir}"]
    result = cli("export", *given, f"--out={tmp_path / 'out'}", f"--json={tmp_path / 'j'}")
    assert (result.code, result.err) == (0, "")
    monkeypatch.undo()
    report = json.loads((tmp_path / "j").read_text())
    before, after = load_file(world / "model" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = sorted(name for name in before if not np.array_equal(before[name], after[name]))
    assert report["trained"] == changed
    assert report["step"] == 2
    assert report["tensors"] == len(before)
    assert report["bytes"] == sum(x.nbytes for x in before.values())
    assert report["files"].keys() == {"model.safetensors"}
    assert "model.safetensors" in result.out
    assert f"{len(changed)} of the tensors are those of step 2" in result.out
    again = ib.InstructBlip.from_pretrained(tmp_path / "out", dtype="float32", trainable="original")
    assert checkpoints.leaves_equal(checkpoints.host(again.train), train)


def test_without_a_workdir_the_model_is_written_again_in_shards(cli, world, tmp_path):
    result = cli("export", f"--model={world / 'model'}", f"--out={tmp_path / 'out'}", "--max_shard_gb=0.00001")
    assert result.code == 0
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    after = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert path.name in result.out
        after |= load_file(path)
    assert checkpoints.leaves_equal(after, load_file(world / "model" / "model.safetensors"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["--model", "--out"]),
        (["--model={world}/model"], ["--out"]),
        (["--model={world}/model", "--out=out", "more"], ["more"]),
        (["--model={world}/model", "--out=out", "--max_shard_gb=0"], ["max_shard_gb"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_a_wrong_command_line(cli, world, argv, words):
    result = cli("export", *[arg.format(world=world) for arg in argv])
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in words)


def refused(result, *words) -> None:
    assert result.code == 1
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert str(word) in result.err


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(cli, world, trained, tmp_path):
    model, out = f"--model={world / 'model'}", f"--out={tmp_path / 'out'}"
    refused(cli("export", f"--model={tmp_path / 'no'}", out), tmp_path / "no")
    refused(cli("export", model, f"--workdir={tmp_path / 'run'}", out), tmp_path / "run", "instructblip train")
    refused(cli("export", model, f"--out={world / 'model'}"), world / "model", "is the source model")
    refused(cli("export", model, f"--out={world}"), world, "not empty")
    assert not list(tmp_path.iterdir())
    other = shutil.copytree(world / "model", tmp_path / "other")
    raw = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(raw | {"note": "another one"}))
    refused(cli("export", f"--model={other}", f"--workdir={trained[0]}", out), trained[0], "another model")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
