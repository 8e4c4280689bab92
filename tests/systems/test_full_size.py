"""The public sizes, described without memory: every tensor's name and shape, every count, every sharding."""

import json
import math

import jax
import public_sizes
import pytest

from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import make_mesh
from instructblip_jax.systems.build import abstract

T5 = {"model_type": "t5", "num_layers": 24, "num_decoder_layers": 24, "d_kv": 64, "vocab_size": 32128}
T5 |= {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "tie_word_embeddings": False}
XL = T5 | {"d_model": 2048, "d_ff": 5120, "num_heads": 32}
XXL = T5 | {"d_model": 4096, "d_ff": 10240, "num_heads": 64}
# Of the 7B file, all sizes but the vocabulary are the class defaults; the ids are those that the public files say.
VICUNA = {"model_type": "llama", "architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048}
VICUNA |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1, "tie_word_embeddings": False}
VICUNA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40, "num_hidden_layers": 40}
OPT = {"model_type": "opt", "num_hidden_layers": 32, "num_attention_heads": 32, "eos_token_id": 50118}
SMALL_OPT = OPT | {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240}
LARGE_OPT = OPT | {"hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384}
SOFT = {"image_token_index": 32001}

CASES = {
    "instructblip-flan-t5-xl": ("instructblip", XL, SOFT, 2048, public_sizes.t5(2048, 5120, 32)),
    "instructblip-flan-t5-xxl": ("instructblip", XXL, {}, 4096, public_sizes.t5(4096, 10240, 64)),
    "blip2-flan-t5-xl": ("blip-2", XL, {}, 2048, public_sizes.t5(2048, 5120, 32)),
    "blip2-flan-t5-xxl": ("blip-2", XXL, {}, 4096, public_sizes.t5(4096, 10240, 64)),
    "instructblip-vicuna-7b": (
        "instructblip",
        VICUNA | {"vocab_size": 32064, "pad_token_id": 32000},
        SOFT,
        4096,
        public_sizes.llama(4096, 11008, 32, 32064),
    ),
    "instructblip-vicuna-7b-2023": (
        "instructblip",
        VICUNA | {"vocab_size": 32001},
        {},
        4096,
        public_sizes.llama(4096, 11008, 32, 32001),
    ),
    "instructblip-vicuna-13b": (
        "instructblip",
        VICUNA | VICUNA_13B | {"vocab_size": 32064},
        SOFT,
        5120,
        public_sizes.llama(5120, 13824, 40, 32064),
    ),
    "instructblip-vicuna-13b-2023": (
        "instructblip",
        VICUNA | VICUNA_13B | {"vocab_size": 32001},
        {},
        5120,
        public_sizes.llama(5120, 13824, 40, 32001),
    ),
    "instructblipvideo-vicuna-7b": (
        "instructblipvideo",
        VICUNA | {"vocab_size": 32064},
        {"video_token_index": 32002},
        4096,
        public_sizes.llama(4096, 11008, 32, 32064),
    ),
    "blip2-opt-2.7b": (
        "blip-2",
        SMALL_OPT | {"vocab_size": 50304},
        {"image_token_index": 50265},
        2560,
        public_sizes.opt(2560, 10240, 32, 50304),
    ),
    "blip2-opt-6.7b-2023": (
        "blip-2",
        LARGE_OPT,  # whose vocabulary, 50272, is the class's default
        {},
        4096,
        public_sizes.opt(4096, 16384, 32, 50272),
    ),
}
"""Name -> model_type, text_config, the soft token, width, and the language model's tensors."""
TRAINED = {2048: 187_262_464, 4096: 188_837_376, 5120: 189_624_832}
"""The original's trained parameters (instructblip-facts, 1.4) by width, the norm after the vision tower with them."""
LN_VISION = 2 * 1408
BLIP2_QFORMER, QUERIES = 105_137_664, 32 * 768


class Full:
    """One public checkpoint, described: its tensors, and our parameters on eight devices."""

    def __init__(self, name: str, directory):
        kind, text, self.soft, self.width, language_model = CASES[name]
        self.instruct = kind != "blip-2"
        self.tensors = public_sizes.towers(self.instruct, self.width) | language_model
        self.odd_vocabulary = text.get("vocab_size") == 32001
        prefix = {"blip-2": "blip_2"}.get(kind, kind)
        qformer = {"model_type": f"{prefix}_qformer"} | ({"vocab_size": 30523} if self.instruct else {})
        raw = {"model_type": kind, "text_config": text, "qformer_config": qformer, **self.soft}
        raw |= {"vision_config": {"model_type": f"{prefix}_vision_model"}}
        path = directory / "config.json"
        path.write_text(json.dumps(raw))
        self.config = hf_instructblip.read_config(path)
        mesh = make_mesh(data=1, fsdp=4, tensor=2)
        _, self.train, self.frozen = abstract(self.config, mesh=mesh, dtype="bfloat16", trainable="qformer")


@pytest.fixture(scope="module", params=CASES)
def full(request, tmp_path_factory) -> Full:
    return Full(request.param, tmp_path_factory.mktemp("config"))


def count(arrays) -> int:
    return sum(math.prod(x.shape) for x in arrays.values())


def test_every_public_tensor_with_its_shape_and_no_other(full):
    ours = {}
    for path, rule in hf_instructblip.rules(full.config).items():
        leaf = (full.train | full.frozen)[path]
        ours |= {name: list(rule.tensor_shape(leaf.shape)) for name in rule.names(leaf.shape)}
    assert ours == full.tensors
    assert hf_instructblip.rules(full.config).keys() == (full.train | full.frozen).keys()


def test_the_placeholder_is_read_where_there_is_one(full):
    assert full.config.image_token_id == (next(iter(full.soft.values())) if full.soft else -1)


def test_the_trained_parameters_are_as_many_as_the_papers(full):
    if full.instruct:
        assert count(full.train) == TRAINED[full.width] - LN_VISION
    else:
        assert count(full.train) == BLIP2_QFORMER + QUERIES + 769 * full.width
    # Nothing is counted twice or lost: the fused qkv of the tower is three of ours.
    assert count(full.train) + count(full.frozen) == sum(map(math.prod, full.tensors.values()))


def test_nothing_is_allocated_and_types_are_as_promised(full):
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in (full.train | full.frozen).values())
    assert {x.dtype.name for x in full.train.values()} == {"float32"}
    assert {x.dtype.name for x in full.frozen.values()} == {"bfloat16"}


def test_shardings_divide_every_array_and_almost_all_bytes(full):
    whole = held = 0
    for path, leaf in (full.train | full.frozen).items():
        shard = leaf.sharding.shard_shape(leaf.shape)  # raises where a size is not divisible
        assert len(leaf.sharding.spec) <= leaf.ndim, path
        whole += math.prod(leaf.shape) * leaf.dtype.itemsize
        held += math.prod(shard) * leaf.dtype.itemsize
    # Norms, biases and odd vocabularies (32,001 rows) may stay whole.
    assert held < (1.05 if full.odd_vocabulary else 1.02) * whole / 8
