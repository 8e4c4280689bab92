"""Adapters as the peft library names them: after the modules of Hugging Face's class, not after its files."""

import json
import re

import checkpoints
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax import families
from instructblip_jax.convert import adapter, save


def of_memory(name: str) -> str:
    """The published name of a tensor -> its name in a file with the names that transformers 5 has in memory."""
    for old, new in (("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return f"model.{name}"


@pytest.fixture(scope="module", params=["published", "of memory"])
def exported(request, tmp_path_factory):
    """A LLaVA whose files have either names, with adapters of the targets q_proj and down_proj, and their export."""
    root = tmp_path_factory.mktemp("adapter")
    source = checkpoints.write(root / "llava", checkpoints.llava_json(94, sizes=checkpoints.MINI), seed=7)
    if request.param == "of memory":
        tensors = load_file(source / "model.safetensors")
        save_file({of_memory(name): x for name, x in tensors.items()}, source / "model.safetensors")
    lora = {"rank": 2, "targets": ("q_proj", "down_proj")}
    model = ib.from_pretrained(source, dtype="float32", trainable="projector_and_lora", lora=lora)
    trained = save.lazy(model.family.rules_for(source, model.config), model.train)
    families.export_adapter(root / "out", source, model.config, trained, "hub/name")
    return model, root / "out"


def test_the_names_are_those_of_modules_in_memory(exported):
    model, out = exported
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    tensors = load_file(out / "adapter_model.safetensors")
    text = model.config.text
    layers = [f"base_model.model.model.language_model.layers.{n}" for n in range(text.num_hidden_layers)]
    heads = text.num_attention_heads * text.head_dim
    want = {}
    for layer in layers:
        want[f"{layer}.self_attn.q_proj.lora_A.weight"] = (2, text.hidden_size)
        want[f"{layer}.self_attn.q_proj.lora_B.weight"] = (heads, 2)
        want[f"{layer}.mlp.down_proj.lora_A.weight"] = (2, text.intermediate_size)
        want[f"{layer}.mlp.down_proj.lora_B.weight"] = (text.hidden_size, 2)
    adapters = {name: x for name, x in tensors.items() if "lora" in name}
    assert {name: x.shape for name, x in adapters.items()} == want
    assert all(x.dtype == np.float32 for x in tensors.values())
    projector = "base_model.model.model.multi_modal_projector.linear_"
    assert tensors.keys() - adapters.keys() == {f"{projector}{n}.{x}" for n in (1, 2) for x in ("weight", "bias")}
    first = np.asarray(model.train["projector/first/kernel"])
    np.testing.assert_array_equal(tensors[f"{projector}1.weight"], first.T)


def test_its_configuration_names_the_modules(exported):
    _, out = exported
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (2, 256.0, 0.0, "none")
    assert config["base_model_name_or_path"] == "hub/name"
    assert config["modules_to_save"] == ["model.multi_modal_projector"]
    pattern = config["target_modules"]  # matched whole against the names of all modules
    assert re.fullmatch(pattern, "model.language_model.layers.2.self_attn.q_proj")
    assert re.fullmatch(pattern, "model.language_model.layers.10.mlp.down_proj")
    for other in (
        "model.language_model.layers.2.self_attn.k_proj",
        "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "model.vision_tower.encoder.layers.0.self_attn.q_proj",
        "model.language_model.layers.2.self_attn",
    ):
        assert not re.fullmatch(pattern, other)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_merged_tensors_have_the_type_of_the_source(tmp_path, dtype):
    source = checkpoints.write(tmp_path / "llava", checkpoints.llava_json(94, sizes=checkpoints.MINI), seed=7)
    tensors = {name: x.astype(dtype) for name, x in load_file(source / "model.safetensors").items()}
    save_file(tensors, source / "model.safetensors")
    rng, name = np.random.default_rng(0), "language_model.model.layers.1.mlp.up_proj"
    kernel = tensors[f"{name}.weight"]
    a, b = (rng.standard_normal(x).astype(np.float32) for x in ((3, kernel.shape[1]), (kernel.shape[0], 3)))
    given = {f"base_model.model.{name}.lora_{which}.weight": x for which, x in (("A", a), ("B", b))}
    config = families.read_config(source).configured(lora={"rank": 3, "alpha": 12})
    whole = families.merged(source, config, given | {"multi_modal_projector.linear_1.bias": np.ones(2)})
    assert whole.keys() == {f"{name}.weight", "multi_modal_projector.linear_1.bias"}
    got = whole[f"{name}.weight"].read()
    assert got.dtype == kernel.dtype
    np.testing.assert_array_equal(got, (kernel.astype(np.float64) + 4 * (b.astype(np.float64) @ a)).astype(dtype))


def test_a_set_without_adapters_has_none_to_write(tmp_path):
    source = checkpoints.write(tmp_path / "llava", checkpoints.llava_json(94, sizes=checkpoints.MINI), seed=7)
    given = {"multi_modal_projector.linear_1.bias": np.ones(2)}
    with pytest.raises(ValueError, match="trained no adapters; only the sets projector_and_lora have"):
        families.export_adapter(tmp_path / "out", source, families.read_config(source), given, "x")
    assert not (tmp_path / "out").exists()


def test_modules_to_save_are_the_largest_that_trained_whole():
    names = ["a.x.weight", "a.x.bias", "a.y.weight", "b.weight", "c.z.u.weight", "c.z.v.weight", "c.w.weight"]
    trained = ["a.x.weight", "a.x.bias", "a.y.weight", "c.z.u.weight", "c.z.v.weight"]
    assert adapter._modules(trained, names) == ["a", "c.z"]
