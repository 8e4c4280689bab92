"""The original project's names, and the command `convert` on its .pth files."""

import json
import os
import sys

import numpy as np
import pytest
import toys
from safetensors.numpy import load_file

from instructblip_jax.convert.layouts import lavis

EXTRAS = {
    "Qformer.cls.predictions.bias": (7,),
    "vision_proj.weight": (3, 4),
    "text_proj.bias": (3,),
    "itm_head.weight": (2, 4),
    "temp": (),
    "Qformer.bert.embeddings.position_ids": (1, 9),
}


def original_name(name: str, projection: str = "t5_proj") -> str:
    """Hugging Face -> the original, the other way round than the package and written on its own."""
    name = name.replace("vision_model.post_layernorm", "ln_vision").replace("language_projection", projection)
    name = name.replace(".embeddings.layernorm.", ".embeddings.LayerNorm.")
    name = name.replace("attention.attention.", "attention.self.")
    return name.replace("qformer.", "Qformer.bert.", 1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("query_tokens", "query_tokens"),
        ("ln_vision.weight", "vision_model.post_layernorm.weight"),
        ("t5_proj.bias", "language_projection.bias"),
        ("llm_proj.weight", "language_projection.weight"),
        ("opt_proj.weight", "language_projection.weight"),
        ("Qformer.bert.embeddings.LayerNorm.weight", "qformer.embeddings.layernorm.weight"),
        ("Qformer.bert.embeddings.word_embeddings.weight", "qformer.embeddings.word_embeddings.weight"),
        (
            "Qformer.bert.encoder.layer.10.attention.self.query.bias",
            "qformer.encoder.layer.10.attention.attention.query.bias",
        ),
        (
            "Qformer.bert.encoder.layer.0.crossattention.self.value.weight",
            "qformer.encoder.layer.0.crossattention.attention.value.weight",
        ),
        (
            "Qformer.bert.encoder.layer.0.crossattention.output.LayerNorm.bias",
            "qformer.encoder.layer.0.crossattention.output.LayerNorm.bias",
        ),
        (
            "Qformer.bert.encoder.layer.3.output_query.LayerNorm.bias",
            "qformer.encoder.layer.3.output_query.LayerNorm.bias",
        ),
        (
            "Qformer.bert.encoder.layer.3.intermediate.dense.weight",
            "qformer.encoder.layer.3.intermediate.dense.weight",
        ),
        ("visual_encoder.cls_token", None),
        ("Qformer.bert.pooler.dense.weight", None),
        ("t5_model.shared.weight", None),
    ],
)
def test_names(theirs, ours):
    assert lavis.INSTRUCTBLIP.hugging_face_name(theirs) == ours


def random(seed: int, shapes: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An InstructBLIP directory."""
    return toys.write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def other(base):
    """Other values for what the original project trains, by Hugging Face name."""
    tensors = load_file(base / "model.safetensors")
    return random(1, {name: x.shape for name, x in tensors.items() if name.startswith(lavis.INSTRUCTBLIP.replaced)})


def test_all_that_is_wrong_is_in_one_error(base, other):
    shapes = {name: x.shape for name, x in load_file(base / "model.safetensors").items()}
    tensors = {original_name(name): x for name, x in other.items()}
    del tensors["ln_vision.bias"], tensors["Qformer.bert.encoder.layer.1.output.dense.weight"]
    tensors["query_tokens"] = tensors["query_tokens"][:, :2]
    tensors["llm_proj.weight"] = tensors["t5_proj.weight"]
    tensors["visual_encoder.cls_token"] = np.zeros(3, np.float32)
    tensors["Qformer.bert.encoder.layer.7.output.dense.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="6 tensors") as caught:
        lavis.rename("f.pth", tensors, "base", shapes, lavis.INSTRUCTBLIP)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("f.pth: 6 tensors do not fit base")
    assert [line.split()[:2] for line in lines[1:]] == [
        ["duplicate", "llm_proj.weight,"],
        ["mis-shaped", "query_tokens"],
        ["missing", "qformer.encoder.layer.1.output.dense.weight"],
        ["missing", "vision_model.post_layernorm.bias"],
        ["unexpected", "Qformer.bert.encoder.layer.7.output.dense.bias"],
        ["unexpected", "visual_encoder.cls_token"],
    ]


# The command


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the original project's files are read with torch")


def save(torch, path, tensors, **more):
    torch.save({"model": {name: torch.tensor(x) for name, x in tensors.items()}, **more}, path)
    return path


def refused(result, *words) -> str:
    assert result.code == 1
    assert result.out == ""
    assert "Traceback" not in result.err
    for word in words:
        assert str(word) in result.err
    return result.err


@pytest.mark.parametrize("projection", ["t5_proj", "llm_proj"])
def test_a_round_trip(torch, cli, base, other, tmp_path, projection):
    tensors = {original_name(name, projection): x for name, x in other.items()} | random(2, EXTRAS)
    assert sum(name.startswith("Qformer.bert.") for name in tensors) > 40
    path = save(torch, tmp_path / "f.pth", tensors, config={"run": {"lr": 1e-5}}, epoch=3)
    result = cli(
        "convert", f"--original={path}", f"--model={base}", f"--out={tmp_path / 'out'}", f"--json={tmp_path / 'j'}"
    )
    assert (result.code, result.err) == (0, "")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert after.keys() == before.keys()
    for name, value in after.items():
        np.testing.assert_array_equal(value, other.get(name, before[name]), err_msg=name)
    assert json.loads((tmp_path / "j").read_text())["skipped"] == list(EXTRAS)
    assert all(name in result.out for name in EXTRAS)
    assert (tmp_path / "out" / "qformer_tokenizer" / "tokenizer.json").exists()


def test_half_precision_becomes_float32(torch, cli, base, other, tmp_path):
    tensors = {original_name(name): x.astype(np.float16) for name, x in other.items()}
    path = save(torch, tmp_path / "f.pth", tensors)
    assert cli("convert", f"--original={path}", f"--model={base}", f"--out={tmp_path / 'out'}").code == 0
    after = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(after["query_tokens"], other["query_tokens"].astype(np.float16).astype(np.float32))


class Code:
    """Pickled, it is a call of os.mkdir."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_that_would_run_code_is_refused_and_runs_none(torch, cli, base, tmp_path):
    torch.save({"model": {"query_tokens": torch.zeros(3), "x": Code(tmp_path / "evil")}}, tmp_path / "f.pth")
    err = refused(
        cli("convert", f"--original={tmp_path / 'f.pth'}", f"--model={base}", f"--out={tmp_path / 'out'}"),
        f"{tmp_path / 'f.pth'}",
        "refused",
    )
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["f.pth"]
    torch.load(tmp_path / "f.pth", weights_only=False)  # and it is one that does
    assert (tmp_path / "evil").is_dir()


@pytest.mark.parametrize("content", ["", "hello", "truncated", "no model", "no tensors", "absent", "wrong names"])
def test_files_of_another_kind_are_named(torch, cli, base, other, tmp_path, content):
    path = tmp_path / "f.pth"
    words = ["truncated"]
    if content in ("", "hello"):
        path.write_text(content)
    elif content == "truncated":
        save(torch, path, other)
        path.write_bytes(path.read_bytes()[:-100])
    elif content == "no model":
        torch.save({"state": 1}, path)
        words = ['"model"']
    elif content == "no tensors":
        torch.save({"model": {"x": 1}}, path)
        words = ['"model"']
    elif content == "wrong names":
        save(torch, path, other)
        words = ["unexpected  qformer.", "missing     qformer.", str(base)]
    else:
        words = ["no such file"]
    before = list(tmp_path.iterdir())
    refused(cli("convert", f"--original={path}", f"--model={base}", f"--out={tmp_path / 'out'}"), path, *words)
    assert list(tmp_path.iterdir()) == before


def test_without_torch_the_extra_is_named(cli, base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "f.pth").write_text("x")
    result = cli("convert", f"--original={tmp_path / 'f.pth'}", f"--model={base}", f"--out={tmp_path / 'out'}")
    refused(result, "pip install -e '.[original]'")


def test_a_pytorch_model_bin_beside_its_configuration(torch, cli, base, tmp_path):
    source = tmp_path / "old"
    source.mkdir()
    for path in base.glob("*.json"):
        (source / path.name).write_bytes(path.read_bytes())
    there = load_file(base / "model.safetensors")
    torch.save({name: torch.tensor(x) for name, x in there.items()}, source / "pytorch_model.bin")
    result = cli("convert", f"--original={source / 'pytorch_model.bin'}", f"--out={tmp_path / 'out'}")
    assert result.code == 0, result.err
    here = load_file(tmp_path / "out" / "model.safetensors")
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], x) for name, x in there.items())
