"""Public config.json files are sparse: what they leave out are the defaults of transformers' classes, and of ours."""

import dataclasses
import json

import checkpoints
import pytest
from flax import nnx

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.instructblip import InstructBlipSystem

DEFAULTS = {
    VitConfig: {
        "hidden_size": 1408,
        "intermediate_size": 6144,
        "num_hidden_layers": 39,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "patch_bias": True,
        "pre_norm": False,
        "post_norm": True,
    },
    QFormerConfig: {
        "vocab_size": 30523,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": 1408,
        "use_text": True,
    },
    T5Config: {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": 6,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "activation": "gelu",
        "scale_outputs": False,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
    LlamaConfig: {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 0,
        "head_dim": 0,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "pad_token_id": 0,
        "eos_token_id": 2,
    },
    OptConfig: {
        "vocab_size": 50272,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "ffn_dim": 3072,
        "max_position_embeddings": 2048,
        "activation_function": "relu",
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
}
"""Facts of the public layout, written down once more."""
THEIRS = {
    VitConfig: "InstructBlipVisionConfig",
    QFormerConfig: "InstructBlipQFormerConfig",
    T5Config: "T5Config",
    LlamaConfig: "LlamaConfig",
    OptConfig: "OPTConfig",
}
OURS_ALONE = {
    VitConfig: {"patch_bias", "pre_norm", "post_norm"},  # what tells the towers apart that one module serves
    QFormerConfig: {"vocab_size", "use_text"},  # BERT's rows, always given in the public files; the wiring
    T5Config: {"activation", "scale_outputs", "decoder_start_token_id"},  # read from fields of other names
    LlamaConfig: {"num_key_value_heads", "head_dim", "rope_theta", "pad_token_id"},  # 0: derived from other sizes
}
"""Fields that are not the library's of that name; `test_a_sparse_file_is_read_as_the_library_reads_it` has the rest."""


@pytest.mark.parametrize("config", DEFAULTS, ids=lambda config: config.__name__)
def test_defaults_are_these(config):
    assert dataclasses.asdict(config()) == DEFAULTS[config]


@pytest.mark.parametrize("config", THEIRS, ids=lambda config: config.__name__)
def test_defaults_are_those_of_the_librarys_classes(config):
    transformers = pytest.importorskip("transformers", reason="the reference is not installed")
    theirs = getattr(transformers, THEIRS[config])()
    fields = {name: value for name, value in DEFAULTS[config].items() if name not in OURS_ALONE.get(config, ())}
    assert len(fields) >= 8
    assert {name: getattr(theirs, name) for name in fields} == fields


SPARSE = {
    "t5": {"model_type": "t5", "feed_forward_proj": "gated-gelu"},
    "llama": {"model_type": "llama"},
    "opt": {"model_type": "opt"},
    "opt-unnamed": {},
}


@pytest.mark.parametrize("kind", ["instructblip", "instructblipvideo", "blip-2"])
@pytest.mark.parametrize("family", SPARSE)
def test_a_sparse_file_is_read_as_the_library_reads_it(tmp_path, kind, family):
    transformers = pytest.importorskip("transformers", reason="the reference is not installed")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "text_config": SPARSE[family]}))
    ours = hf_instructblip.read_config(tmp_path / "config.json")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert ours.num_query_tokens == theirs.num_query_tokens
    for field in DEFAULTS[VitConfig].keys() - OURS_ALONE[VitConfig]:
        assert getattr(ours.vision, field) == getattr(theirs.vision_config, field), field
    for field in DEFAULTS[QFormerConfig].keys() - OURS_ALONE[QFormerConfig]:
        assert getattr(ours.qformer, field) == getattr(theirs.qformer_config, field), field
    text = theirs.text_config
    for field in DEFAULTS[type(ours.text)].keys() - OURS_ALONE.get(type(ours.text), set()):
        assert getattr(ours.text, field) == getattr(text, field), field
    if family == "t5":
        assert ours.text.activation == text.dense_act_fn == "gelu_new"
        assert ours.text.scale_outputs == text.scale_decoder_outputs
    if family == "llama":
        assert ours.text.rope_theta == text.rope_parameters["rope_theta"]
        assert text.head_dim * text.num_attention_heads == ours.text.hidden_size
        assert text.num_key_value_heads == ours.text.num_attention_heads


@pytest.mark.parametrize("family", ["t5", "llama", "opt"])
def test_every_norm_has_the_epsilon_of_its_part(tmp_path, family):
    """Epsilons move results by less than rounding may, so they are read from the modules."""
    raw = checkpoints.config_json("blip-2", checkpoints.MINI, family)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = hf_instructblip.read_config(tmp_path / "config.json")
    field = {"t5": "layer_norm_epsilon", "llama": "rms_norm_eps", "opt": None}[family]
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layer_norm_eps=1e-3),
        qformer=dataclasses.replace(config.qformer, layer_norm_eps=2e-3),
        text=dataclasses.replace(config.text, **{field: 3e-3} if field else {}),
    )
    system = nnx.eval_shape(lambda: InstructBlipSystem(config, dtype="float32", rngs=nnx.Rngs(0)))
    found: dict[str, set[float]] = {}
    for path, node in nnx.iter_graph(system):
        if isinstance(node, nnx.LayerNorm | nnx.RMSNorm):
            found.setdefault(str(path[0]), set()).add(node.epsilon)
    assert found == {"vit": {1e-3}, "qformer": {2e-3}, "llm": {3e-3 if field else 1e-5}}  # OPT's is torch's default
