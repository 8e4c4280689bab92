"""Hugging Face -> ours -> Hugging Face, bit for bit."""

import json

import checkpoints
import numpy as np
import pytest
from safetensors.numpy import load_file

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.load import load
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import write_shards
from instructblip_jax.mesh import make_mesh, single_device_mesh
from instructblip_jax.systems.build import abstract


def read(directory, mesh=None, dtype="float32"):
    config = hf_instructblip.read_config(directory / "config.json")
    _, train, frozen = abstract(config, mesh=mesh or single_device_mesh(), dtype=dtype, trainable="qformer")
    rules, ignored = hf_instructblip.rules(config), hf_instructblip.ignored(config)
    return rules, load(rules, train | frozen, open_shards(directory), ignored)


KINDS = [
    ("instructblip", "t5"),
    ("blip-2", "t5"),
    ("instructblip", "llama"),
    ("instructblip", "grouped"),
    ("blip-2", "opt"),
    ("instructblipvideo", "llama"),
    ("instructblipvideo", "t5"),
]


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_every_tensor_comes_back_bit_for_bit(kind, family, tmp_path):
    directory = checkpoints.write(tmp_path / "in", checkpoints.config_json(kind, family=family), seed=1)
    rules, arrays = read(directory)
    write_shards(tmp_path / "out", save.tensors(rules, arrays), max_bytes=30_000)
    written = list((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    back = {}
    for file in written:
        back |= load_file(file)
    assert len(written) > 2
    assert {file.name for file in written} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in back.values())
    assert checkpoints.leaves_equal(back, load_file(directory / "model.safetensors"))
    again = read(tmp_path / "out" if (tmp_path / "out" / "config.json").exists() else with_config(directory, tmp_path))
    assert checkpoints.leaves_equal(checkpoints.host(again[1]), checkpoints.host(arrays))


def with_config(directory, tmp_path):
    (tmp_path / "out" / "config.json").write_bytes((directory / "config.json").read_bytes())
    return tmp_path / "out"


def test_one_file_when_it_all_fits(tmp_path):
    directory = checkpoints.write(tmp_path / "in", checkpoints.config_json(), seed=1)
    rules, arrays = read(directory)
    write_shards(tmp_path / "out", save.tensors(rules, arrays), max_bytes=1 << 30)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    want = load_file(directory / "model.safetensors")
    assert checkpoints.leaves_equal(load_file(tmp_path / "out" / "model.safetensors"), want)


@pytest.mark.parametrize(("kind", "family"), [("instructblip", "grouped"), ("blip-2", "opt")])
def test_a_decoder_only_model_on_eight_devices(kind, family, tmp_path):
    directory = checkpoints.write(tmp_path, checkpoints.config_json(kind, family=family), seed=2)
    _, one = read(directory)
    _, eight = read(directory, make_mesh(2, 2, 2))
    assert checkpoints.leaves_equal(checkpoints.host(one), checkpoints.host(eight))
    for name in ("attn/q", "attn/k", "attn/o", "up", "down"):
        assert not eight[f"llm/layers/{name}/kernel"].sharding.is_fully_replicated


def test_decoder_only_tensors_go_where_they_belong(tmp_path):
    """Against the file itself, by hand, as above; and the buffers of old files change nothing."""
    files = {}
    for kind, family in (("instructblip", "grouped"), ("blip-2", "opt")):
        raw = checkpoints.config_json(kind, family=family)
        directory = checkpoints.write(tmp_path / family, raw, seed=3)
        files[family] = load_file(directory / "model.safetensors"), read(directory)[1]
        old = read(checkpoints.write(tmp_path / f"{family}-old", raw, seed=3, legacy=True))[1]
        assert checkpoints.leaves_equal(checkpoints.host(old), checkpoints.host(files[family][1]))
    theirs, ours = files["grouped"]
    block = "language_model.model.layers.1"
    assert ours["llm/layers/attn/k/kernel"].shape == (3, 36, 18)
    for name, tensor in {
        "attn/q": "self_attn.q_proj",
        "attn/v": "self_attn.v_proj",
        "attn/o": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }.items():
        np.testing.assert_array_equal(ours[f"llm/layers/{name}/kernel"][1], theirs[f"{block}.{tensor}.weight"].T)
    for name, tensor in {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}.items():
        np.testing.assert_array_equal(ours[f"llm/layers/{name}/scale"][1], theirs[f"{block}.{tensor}.weight"])
    np.testing.assert_array_equal(ours["llm/to_vocab/kernel"], theirs["language_model.lm_head.weight"].T)
    theirs, ours = files["opt"]
    decoder = "language_model.model.decoder"
    for name, tensor in {
        "attn/k": "self_attn.k_proj",
        "attn/o": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
    }.items():
        np.testing.assert_array_equal(
            ours[f"llm/layers/{name}/kernel"][2], theirs[f"{decoder}.layers.2.{tensor}.weight"].T
        )
        np.testing.assert_array_equal(ours[f"llm/layers/{name}/bias"][2], theirs[f"{decoder}.layers.2.{tensor}.bias"])
    for name, tensor in {"attn_norm": "layers.0.self_attn_layer_norm", "ffn_norm": "layers.0.final_layer_norm"}.items():
        np.testing.assert_array_equal(ours[f"llm/layers/{name}/bias"][0], theirs[f"{decoder}.{tensor}.bias"])
    np.testing.assert_array_equal(ours["llm/norm/bias"], theirs[f"{decoder}.final_layer_norm.bias"])
    np.testing.assert_array_equal(ours["llm/position/embedding"], theirs[f"{decoder}.embed_positions.weight"])


def test_a_llama_without_a_head_reads_its_embedding(tmp_path):
    raw = checkpoints.config_json(family="llama")
    _, arrays = read(checkpoints.write(tmp_path, raw, seed=5, tied=True))
    np.testing.assert_array_equal(arrays["llm/to_vocab/kernel"], np.asarray(arrays["llm/tokens/embedding"]).T)


def test_the_same_arrays_on_eight_devices(tmp_path):
    directory = checkpoints.write(tmp_path, checkpoints.config_json(), seed=2, shard_bytes=40_000)
    _, one = read(directory)
    _, eight = read(directory, make_mesh(2, 2, 2))
    assert checkpoints.leaves_equal(checkpoints.host(one), checkpoints.host(eight))
    split = {path for path, x in eight.items() if not x.sharding.is_fully_replicated}
    for path in (
        "llm/encoder/layers/ffn/up/kernel",
        "vit/layers/attn/q/kernel",
        "qformer/layers/query_ffn/up/kernel",
    ):
        assert path in split
    up = eight["llm/encoder/layers/ffn/up/kernel"]
    layers, width, inner = up.shape
    assert {shard.data.shape for shard in up.addressable_shards} == {(layers, width // 2, inner // 2)}


def test_fused_and_stacked_tensors_go_where_they_belong(tmp_path):
    """Against the file itself, by hand: a table that is wrong both ways would still make the round trip."""
    raw = checkpoints.config_json()
    directory = checkpoints.write(tmp_path, raw, seed=3)
    theirs = load_file(directory / "model.safetensors")
    _, ours = read(directory)
    width = raw["vision_config"]["hidden_size"]
    qkv = theirs["vision_model.encoder.layers.1.self_attn.qkv.weight"]
    key_bias = theirs["vision_model.encoder.layers.1.self_attn.qkv.bias"][width : 2 * width]
    for n, name in enumerate("qkv"):
        want = qkv[n * width : (n + 1) * width].T
        np.testing.assert_array_equal(ours[f"vit/layers/attn/{name}/kernel"][1], want)
    np.testing.assert_array_equal(ours["vit/layers/attn/k/bias"][1], key_bias)
    want = theirs["language_model.decoder.block.1.layer.1.EncDecAttention.o.weight"].T
    np.testing.assert_array_equal(ours["llm/decoder/layers/cross_attention/attn/o/kernel"][1], want)
    pixels = np.random.default_rng(0).standard_normal((14, 14, 3), np.float32)
    kernel = theirs["vision_model.embeddings.patch_embedding.weight"]
    want = np.einsum("dchw,hwc->d", kernel, pixels)
    np.testing.assert_allclose(pixels.reshape(-1) @ np.asarray(ours["vit/patch/kernel"]), want, atol=1e-5)


@pytest.mark.parametrize("alias", ["encoder", "decoder"])
def test_old_files_may_hold_the_embedding_under_an_alias_only(alias, tmp_path):
    directory = checkpoints.write(tmp_path, checkpoints.config_json(), seed=4)
    tensors = load_file(directory / "model.safetensors")
    table_ = tensors.pop("language_model.shared.weight")
    tensors[f"language_model.{alias}.embed_tokens.weight"] = table_
    checkpoints.save_file(tensors, directory / "model.safetensors")
    _, arrays = read(directory)
    np.testing.assert_array_equal(arrays["llm/shared/embedding"], table_)
    np.testing.assert_array_equal(arrays["llm/head/kernel"], tensors["language_model.lm_head.weight"].T)


def test_buffers_and_aliases_of_old_files_are_skipped_and_a_missing_head_is_the_embedding(tmp_path):
    raw = checkpoints.config_json()
    plain = read(checkpoints.write(tmp_path / "plain", raw, seed=5))[1]
    old = read(checkpoints.write(tmp_path / "old", raw, seed=5, legacy=True, tied=True))[1]
    np.testing.assert_array_equal(old["llm/head/kernel"], np.asarray(old["llm/shared/embedding"]).T)
    del plain["llm/head/kernel"], old["llm/head/kernel"]
    assert checkpoints.leaves_equal(checkpoints.host(plain), checkpoints.host(old))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_files_in_half_precision_load_as_masters_and_compute_type(stored, tmp_path):
    import ml_dtypes

    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[stored]
    directory = checkpoints.write(tmp_path, checkpoints.config_json(), seed=6)
    tensors = {name: x.astype(kind) for name, x in load_file(directory / "model.safetensors").items()}
    checkpoints.save_file(tensors, directory / "model.safetensors")
    model = ib.InstructBlip.from_pretrained(directory, dtype="bfloat16")
    assert {x.dtype.name for x in model.train.values()} == {"float32"}
    assert {x.dtype.name for x in model.frozen.values()} == {"bfloat16"}
    want = tensors["language_projection.weight"].astype(np.float32).T
    np.testing.assert_array_equal(model.train["projector/kernel"], want)
    want = tensors["language_model.lm_head.weight"].astype(ml_dtypes.bfloat16).T
    np.testing.assert_array_equal(np.asarray(model.frozen["llm/head/kernel"]), want)
