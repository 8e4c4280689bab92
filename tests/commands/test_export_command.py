"""The command `export`: a run's trained parameters as a Hugging Face directory, without loading the model."""

import dataclasses
import json
import runpy
import shutil
from types import SimpleNamespace

import checkpoints
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from huggingface_hub import ModelCard
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
        (["--model={world}/model", "--out=out", "--push=name"], ["--push name", "org/name"]),
        (["--model={world}/model", "--out=out", "--upload"], ["--upload", "--push"]),
        (["--out=out", "--push=org/name", "--workdir=run"], ["--workdir", "--model"]),
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


def front(directory) -> dict:
    """The front matter of a directory's card, as the hub reads it."""
    return ModelCard((directory / "README.md").read_text(encoding="utf-8")).data.to_dict()


def test_the_card_states_licence_training_and_scores_of_that_step(cli, world, trained, tmp_path):
    workdir, _ = trained
    model = shutil.copytree(world / "model", tmp_path / "base")
    (model / "README.md").write_text("---\nlicense: bsd-3-clause\n---\nThe base.\n")
    row = {"split": "held_out", "metric": "exact_match", "value": 0.75, "count": 8, "data_split": "test"}
    report = {"step": 2, "sets": {"count": row | {"interval": [0.5, 1.0]}, "blind_test": row | {"value": None}}}
    (workdir / "evaluation.json").write_text(json.dumps(report))
    try:
        assert cli("export", f"--model={model}", f"--workdir={workdir}", f"--out={tmp_path / 'tuned'}").code == 0
        (workdir / "evaluation.json").write_text(json.dumps(report | {"step": 1}))
        assert cli("export", f"--model={model}", f"--workdir={workdir}", f"--out={tmp_path / 'other'}").code == 0
    finally:
        (workdir / "evaluation.json").unlink()
    stated = front(tmp_path / "tuned")
    run = resolve(runpy.run_path(str(world / "tiny.py"))["get_config"]())
    assert stated["license"] == "bsd-3-clause"
    assert stated["datasets"] == sorted(run.mixture.all_sets)
    assert "base_model" not in stated  # a directory here is none that the hub knows
    [found] = stated["model-index"][0]["results"]
    assert found["dataset"] == {"name": "count", "type": "count", "split": "test"}
    assert found["metrics"][0]["value"] == 0.75
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    for words in ("50.0 to 100.0", "`original`", "bsd-3-clause", "step 2", "names no class", "ib.from_pretrained"):
        assert words in text
    assert str(tmp_path) not in text
    assert "model-index" not in front(tmp_path / "other")
    assert "Step 1 was evaluated" in (tmp_path / "other" / "README.md").read_text(encoding="utf-8")


def test_push_lists_files_and_uploads_nothing_unless_told_to(cli, world, tmp_path, monkeypatch):
    asked = []

    class Api:
        def create_repo(self, name: str, **options) -> None:
            asked.append((name, options))

        def upload_folder(self, **options) -> SimpleNamespace:
            asked.append(options)
            return SimpleNamespace(commit_url="the address")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    out, push = f"--out={tmp_path / 'out'}", "--push=org/tuned"
    refused(cli("export", f"--model={world / 'model'}", out, push, "--upload"), "hf auth login", "HF_TOKEN")
    assert not (tmp_path / "out").exists()
    result = cli("export", f"--model={toys.SHIPPED}", out, push)
    assert result.code == 0
    assert "nothing was uploaded" in result.out
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert 'InstructBlipForConditionalGeneration.from_pretrained("org/tuned")' in text
    assert front(tmp_path / "out")["license"] == "other"  # the base names none
    for path in (tmp_path / "out").rglob("*.*"):
        assert path.relative_to(tmp_path / "out").as_posix() in result.out
    assert asked == []
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    result = cli("export", out, push, "--upload", f"--json={tmp_path / 'j'}")
    assert (result.code, result.err) == (0, "")
    assert json.loads((tmp_path / "j").read_text())["push"]["uploaded"] == "the address"
    (name, made), uploaded = asked
    assert (name, made["private"]) == ("org/tuned", True)
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("org/tuned", tmp_path / "out")
    refused(cli("export", f"--out={tmp_path}", push), tmp_path, "config.json")
