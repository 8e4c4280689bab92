"""A run that trains adapters: interrupted, resumed, answered with, exported merged and as an adapter of peft."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

RUN = (
    *("--config.trainable=qformer_and_lora", "--config.system.lora.rank=2", "--config.system.lora.targets=('q', 'wo')"),
    *("--config.optim.rates={'projector': 0.1}", "--config.optim.learning_rate=0.3", "--config.optim.warmup_steps=0"),
    *("--config.steps=4", "--config.checkpoint_every=2"),
)


@pytest.fixture
def trained(cli, world, tmp_path):
    """The workdir of a whole run, and what it reported."""
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={tmp_path / 'run'}", *RUN)
    assert result.code == 0, result.err
    return tmp_path / "run", json.loads((tmp_path / "run" / "train.json").read_text())


def test_a_run_with_adapters_from_its_start_to_its_exports(cli, world, trained, tmp_path):
    workdir, report = trained
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["system"]["lora"] == {"rank": 2, "targets": ["q", "wo"]}
    assert saved["optim"]["rates"] == {"projector": 0.1}

    # Killed after the second step and started again, it ends with the same bits.
    again = shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "4")
    (again / "train.json").unlink()
    result = cli("train", f"--config={world / 'tiny.py'}", f"--workdir={again}", *RUN)
    assert (result.code, "from step 2" in result.out) == (0, True), result.err
    assert json.loads((again / "train.json").read_text())["weights_sha256"] == report["weights_sha256"]

    # Merged: only what trained differs, in the source's type, and it answers as the run does.
    model, out = world / "model", tmp_path / "merged"
    result = cli("export", f"--model={model}", f"--workdir={workdir}", f"--out={out}", f"--json={tmp_path / 'j'}")
    assert result.code == 0, result.err
    before, after = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    replaced = set(json.loads((tmp_path / "j").read_text())["trained"])
    assert changed < replaced  # some vectors had no gradient
    names = [name for name in changed if name.startswith("language_model.")]
    assert len(names) == 5  # three queries, two feed-forwards
    assert all(name.endswith((".q.weight", ".wo.weight")) for name in names)
    Image.new("RGB", (24, 24), "red").save(tmp_path / "picture.png")
    ask = (
        f"--image={tmp_path / 'picture.png'}",
        "--dtype=float32",
        "how many digits are there ?",
        "--candidates=2,two",
    )
    own = cli("answer", f"--model={model}", f"--workdir={workdir}", *ask)
    assert (own.code, own.out) == (0, cli("answer", f"--model={out}", *ask).out), own.err
    assert own.out != cli("answer", f"--model={model}", *ask).out

    # As an adapter: A and B, and the other trained tensors, from which the merged ones follow.
    out = tmp_path / "adapter"
    result = cli("export", f"--model={model}", f"--workdir={workdir}", f"--out={out}", "--lora=adapter")
    assert result.code == 0, result.err
    assert f"an adapter of {model} from step 4 of {workdir}" in result.out
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 256.0)
    assert config["base_model_name_or_path"] == str(model)
    assert config["modules_to_save"] == ["language_projection", "qformer"]
    adapter = load_file(out / "adapter_model.safetensors")
    for name in names:
        a, b = (adapter.pop(f"base_model.model.{name.removesuffix('weight')}lora_{x}.weight") for x in "AB")
        np.testing.assert_allclose(after[name], before[name] + 128 * b @ a, rtol=1e-5, atol=1e-5)
    others = load_file(out / "other_parameters.safetensors")
    assert others.keys() == {"query_tokens"}
    whole = {name.removeprefix("base_model.model."): x for name, x in adapter.items()} | others
    assert whole.keys() == replaced - set(names)
    assert all(np.array_equal(x, after[name]) for name, x in whole.items())


def test_no_adapter_of_a_run_without_one(cli, world, tmp_path):
    out = f"--out={tmp_path / 'out'}"
    result = cli("export", f"--model={world / 'model'}", out, "--lora=adapter")
    assert result.code == 2
    assert "--lora=adapter needs --workdir" in result.err
