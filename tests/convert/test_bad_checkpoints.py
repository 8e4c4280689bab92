"""A directory that cannot be loaded gets one error, which names the file, the field or every tensor."""

import json
import shutil
import tracemalloc

import checkpoints
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("good"), checkpoints.config_json(), seed=1)


@pytest.fixture(scope="module")
def good_sharded(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("shards"), checkpoints.config_json(), seed=1, shard_bytes=60_000)


@pytest.fixture
def directory(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


@pytest.fixture
def sharded(good_sharded, tmp_path):
    return shutil.copytree(good_sharded, tmp_path / "model")


def edit_config(directory, **changes):
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (raw[section] if section else raw)[field] = value
    path.write_text(json.dumps(raw))


def refused(directory, error=ValueError) -> str:
    with pytest.raises(error) as caught:
        ib.InstructBlip.from_pretrained(directory, dtype="float32")
    return str(caught.value)


def test_one_error_names_all_missing_unexpected_and_mis_shaped_tensors(directory):
    tensors = load_file(directory / "model.safetensors")
    gone = [
        "query_tokens",
        "vision_model.encoder.layers.1.mlp.fc1.bias",
        "language_model.decoder.block.1.layer.2.DenseReluDense.wo.weight",
    ]
    for name in gone:
        del tensors[name]
    tensors["language_projection.weight"] = tensors["language_projection.weight"].T.copy()
    tensors["vision_model.encoder.layers.0.self_attn.qkv.bias"] = np.zeros(7, np.float32)
    tensors["language_model.model.layers.0.self_attn.q_proj.weight"] = np.zeros((2, 2), np.float32)
    tensors["vision_model.encoder.layers.2.mlp.fc1.bias"] = np.zeros(3, np.float32)  # a layer too many
    save_file(tensors, directory / "model.safetensors")
    message = refused(directory)
    assert str(directory) in message
    lines = [line.split() for line in message.splitlines()[1:]]
    assert sorted((kind, name) for kind, name, *_ in lines) == sorted(
        [("missing", name) for name in gone]
        + [("mis-shaped", "language_projection.weight")]
        + [("mis-shaped", "vision_model.encoder.layers.0.self_attn.qkv.bias")]
        + [("unexpected", "language_model.model.layers.0.self_attn.q_proj.weight")]
        + [("unexpected", "vision_model.encoder.layers.2.mlp.fc1.bias")]
    )
    assert "language_projection.weight [24, 32]" in message  # what the file holds
    assert "[32, 24]" in message  # what config.json asks for


def test_wrong_sizes_in_the_config_are_found_before_anything_is_read(directory):
    edit_config(directory, text_config__num_layers=4, vision_config__intermediate_size=71)
    message = refused(directory)
    assert "language_model.encoder.block.3.layer.0.SelfAttention.q.weight" in message
    assert "vision_model.encoder.layers.1.mlp.fc2.weight" in message


@pytest.mark.parametrize("keep", [0.0, 0.0005, 0.5, 0.999])
def test_truncated_weights_are_named(directory, keep):
    path = directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    message = refused(directory)
    assert str(path) in message
    assert "truncated" in message


def test_a_shard_the_index_names_is_missing(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    message = refused(sharded, FileNotFoundError)
    for word in (str(shard), str(sharded / "model.safetensors.index.json")):
        assert word in message
    assert "\n" not in message


def test_a_truncated_shard_is_named(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-9])
    assert str(shard) in refused(sharded)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"metadata": {}}',
        '{"weight_map": {"a": "../a.safetensors"}}',
        '{"weight_map": {"a": ["model.safetensors"]}}',
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": 1, "c": null}}',
        '{"weight_map": ["model.safetensors"]}',
        '{"weight_map": ' + "[" * 100_000 + "}",
    ],
)
def test_a_broken_index_is_named(sharded, content):
    index = sharded / "model.safetensors.index.json"
    index.write_text(content)
    message = refused(sharded)
    assert str(index) in message
    assert "\n" not in message


def test_weights_that_are_not_safetensors_are_not_looked_for(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    message = refused(directory, FileNotFoundError)
    for word in (str(directory / "model.safetensors"), "pytorch_model.bin", "safetensors files of the same repository"):
        assert word in message
    assert "\n" not in message


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
LONG = '{"model_type": "blip-2", "num_query_tokens": ' + "9" * 100_000 + "}"


@pytest.mark.parametrize("content", ["", "{", '{"model_type": ', "[1]", "\x00\x01", DEEP, LONG])
def test_a_broken_config_is_named(directory, content):
    (directory / "config.json").write_text(content)
    message = refused(directory)
    assert str(directory / "config.json") in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("vision_config", "layer_norm_eps", "NaN"),
        ("vision_config", "layer_norm_eps", "-1e-6"),
        ("qformer_config", "layer_norm_eps", "Infinity"),
        ("qformer_config", "hidden_dropout_prob", "NaN"),
        ("text_config", "layer_norm_epsilon", "-Infinity"),
        ("text_config", "layer_norm_epsilon", "1e999"),
        ("text_config", "layer_norm_epsilon", "1" + "0" * 400),
        ("text_config", "num_heads", "NaN"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_file_and_field(directory, section, field, value):
    edit_config(directory, **{f"{section}__{field}": "HERE"})
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"HERE"', value))
    message = refused(directory)
    assert f"{path}: {section}.{field} is " in message
    assert "\n" not in message


@pytest.mark.parametrize("field", ["unread", "initializer_range"])
def test_what_nobody_reads_may_be_anything(directory, field):
    edit_config(directory, **{f"text_config__{field}": float("nan")})
    assert ib.InstructBlip.from_pretrained(directory, dtype="float32").config.text.num_layers == 3


@pytest.mark.parametrize(
    "field",
    [
        "vision_config__num_hidden_layers",
        "qformer_config__num_hidden_layers",
        "text_config__num_layers",
        "text_config__num_decoder_layers",
    ],
)
def test_more_layers_than_there_are_tensors_are_told_without_naming_each(directory, field):
    edit_config(directory, **{field: 10**8})
    tracemalloc.start()
    message = refused(directory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(directory) in message
    assert f"asks for {10**8} tensors " in message or f"asks for {5 * 10**7} tensors " in message
    assert "\n" not in message
    assert peak < 50e6


@pytest.mark.parametrize("value", [[], [-1], [1, "2"], ["</s>"], [True], "1", {"a": 1}, [[1]]])
def test_end_tokens_that_are_none_are_refused_by_file_and_field(directory, value):
    edit_config(directory, text_config__eos_token_id=value)
    assert f"{directory / 'config.json'}: text_config.eos_token_id" in refused(directory)


def test_a_config_with_bytes_that_are_no_text_is_named(directory):
    (directory / "config.json").write_bytes(b"\xff\xfe{}")
    assert str(directory / "config.json") in refused(directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llava-next"}, ["model_type", "llava-next", "blip-2", "instructblip"]),
        ({"model_type": None}, ["model_type"]),
        ({"text_config__model_type": "gpt2"}, ["text_config.model_type", "gpt2", "llama, opt, t5"]),
        ({"text_config__feed_forward_proj": "relu"}, ["text_config.feed_forward_proj", "relu"]),
        ({"text_config__dense_act_fn": "swish2"}, ["text_config.dense_act_fn", "swish2", "gelu"]),
        ({"vision_config__hidden_act": "quick"}, ["vision_config.hidden_act", "quick"]),
        ({"vision_config__num_attention_heads": 7}, ["vision_config", "num_attention_heads", "7"]),
        ({"vision_config": [1]}, ["vision_config"]),
        ({"vision_config__hidden_size": "40"}, ["vision_config.hidden_size", "40"]),
        ({"text_config__num_layers": 0}, ["text_config.num_layers"]),
        ({"vision_config__image_size": 43}, ["vision_config.image_size", "43"]),
        ({"num_query_tokens": "six"}, ["num_query_tokens", "six"]),
    ],
)
def test_a_config_of_another_kind_is_refused_by_file_and_field(directory, changes, words):
    edit_config(directory, **changes)
    message = refused(directory)
    for word in [str(directory / "config.json"), *words]:
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rotary", "linear"]),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, ["rotary", "llama3"]),
        ("llama", {"rope_parameters": {"rope_theta": float("nan")}}, ["text_config.rope_theta is nan"]),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["rope_parameters", "rotary"]),
        ("llama", {"rope_parameters": [1e4]}, ["text_config.rope_parameters", "not of type dict"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["rotary", "0.5"]),
        ("llama", {"rms_norm_eps": float("inf")}, ["text_config.rms_norm_eps is inf"]),
        ("llama", {"num_key_value_heads": 3}, ["num_attention_heads 4", "num_key_value_heads 3"]),
        ("llama", {"num_attention_heads": 5}, ["text_config.hidden_size 32", "num_attention_heads 5"]),
        ("llama", {"attention_bias": True}, ["text_config.attention_bias", "True"]),
        ("llama", {"mlp_bias": True}, ["text_config.mlp_bias"]),
        ("llama", {"hidden_act": "swiglu"}, ["text_config.hidden_act", "swiglu", "silu"]),
        ("llama", {"head_dim": 0}, ["text_config.head_dim"]),
        ("opt", {"word_embed_proj_dim": 20}, ["text_config.word_embed_proj_dim", "20", "36"]),
        ("opt", {"do_layer_norm_before": False}, ["text_config.do_layer_norm_before"]),
        ("opt", {"enable_bias": False}, ["text_config.enable_bias"]),
        ("opt", {"tie_word_embeddings": False}, ["text_config.tie_word_embeddings"]),
        ("opt", {"num_attention_heads": 5}, ["text_config.hidden_size 36", "num_attention_heads 5"]),
        ("opt", {"activation_function": "tanh"}, ["text_config.activation_function", "tanh", "relu"]),
        ("opt", {"max_position_embeddings": -2}, ["text_config.max_position_embeddings", "-2"]),
    ],
)
def test_a_language_model_of_another_form_is_refused_by_file_and_field(tmp_path, family, changes, words):
    raw = checkpoints.config_json("blip-2" if family == "opt" else "instructblip", family=family)
    raw["text_config"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(raw))
    message = refused(tmp_path)
    for word in [str(tmp_path / "config.json"), *words]:
        assert word in message
    assert "\n" not in message


def test_what_older_and_newer_files_say_of_rotary_positions_is_read(tmp_path):
    from instructblip_jax.convert.layouts.hf_instructblip import read_config

    path = tmp_path / "config.json"
    for fields, base in (
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": None}, 5e5),
        ({"rope_theta": 2e4, "rope_scaling": None}, 2e4),
        ({"rope_theta": None}, 1e4),
    ):
        path.write_text(json.dumps(checkpoints.config_json(family="llama", **fields)))
        assert read_config(path).text.rope_theta == base


def test_weights_of_whole_numbers_and_swapped_sizes_are_named(tmp_path):
    raw = checkpoints.config_json(family="grouped")
    directory = checkpoints.write(tmp_path, raw, seed=1)
    tensors = load_file(directory / "model.safetensors")
    block = "language_model.model.layers.2"
    for name in ("self_attn.o_proj", "mlp.up_proj"):
        tensors[f"{block}.{name}.weight"] = tensors[f"{block}.{name}.weight"].astype(np.int64)
    tensors[f"{block}.self_attn.k_proj.weight"] = tensors[f"{block}.self_attn.q_proj.weight"].copy()  # as many heads
    save_file(tensors, directory / "model.safetensors")
    message = refused(directory)
    assert f"mis-typed   {block}.self_attn.o_proj.weight is I64" in message
    assert f"mis-typed   {block}.mlp.up_proj.weight is I64" in message
    assert f"mis-shaped  {block}.self_attn.k_proj.weight [54, 36], config.json asks for [18, 36]" in message
    assert len(message.splitlines()) == 1 + 3


def test_an_absent_directory_or_file(tmp_path):
    message = refused(tmp_path / "nowhere", FileNotFoundError)
    assert str(tmp_path / "nowhere") in message
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refused(tmp_path / "file", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty" / "config.json") in refused(tmp_path / "empty", FileNotFoundError)


def test_an_unknown_dtype_trainable_set_or_remat_is_refused_with_the_choices(good):
    with pytest.raises(ValueError, match="float32"):
        ib.InstructBlip.from_pretrained(good, dtype="float64")
    with pytest.raises(ValueError, match="original, projection, qformer"):
        ib.InstructBlip.from_pretrained(good, trainable="qformr")
    with pytest.raises(ValueError, match="layer"):
        ib.InstructBlip.from_pretrained(good, remat="everything")


def test_sparse_configs_fall_back_to_the_public_sizes(tmp_path):
    from instructblip_jax.convert.layouts.hf_instructblip import read_config

    sparse = {
        "model_type": "instructblip",
        "vision_config": {"model_type": "instructblip_vision_model"},
        "qformer_config": {"model_type": "instructblip_qformer", "vocab_size": 30523, "encoder_hidden_size": 9},
        "text_config": {"model_type": "t5", "d_model": 2048, "feed_forward_proj": "gated-gelu", "dense_act_fn": None},
    }
    (tmp_path / "config.json").write_text(json.dumps(sparse))
    config = read_config(tmp_path / "config.json")
    vision, qformer, text = config.vision, config.qformer, config.text
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (1408, 6144, 39)
    assert (vision.num_attention_heads, vision.grid, vision.layer_norm_eps, vision.hidden_act) == (16, 16, 1e-6, "gelu")
    assert (qformer.hidden_size, qformer.num_hidden_layers, qformer.layer_norm_eps) == (768, 12, 1e-12)
    assert (qformer.encoder_hidden_size, qformer.max_position_embeddings, qformer.cross_attention_frequency) == (
        1408,
        512,
        2,
    )
    assert (qformer.hidden_dropout_prob, qformer.attention_probs_dropout_prob) == (0.1, 0.1)
    assert (text.relative_attention_num_buckets, text.relative_attention_max_distance) == (32, 128)
    assert text.activation == "gelu_new"  # what "gated-gelu" means to the library where dense_act_fn is not given
    assert text.scale_outputs  # unless tie_word_embeddings is false explicitly
    assert config.num_query_tokens == 32
