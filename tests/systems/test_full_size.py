"""The public FlanT5 sizes, described without memory: every tensor's name and shape, every count, every sharding."""

import json
import math

import jax
import pytest

from instructblip_jax.convert import hf_config, table
from instructblip_jax.mesh import make_mesh
from instructblip_jax.systems.tree import abstract

TEXT = {
    "xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
}
KINDS = {"instructblip": "instructblip", "blip2": "blip-2"}
TRAINED = {("instructblip", "xl"): 187_262_464, ("instructblip", "xxl"): 188_837_376}
"""The original's trained parameters (instructblip-facts, 1.4), the norm after the vision tower with them."""
LN_VISION = 2 * 1408
BLIP2_QFORMER, QUERIES = 105_137_664, 32 * 768

VISION, QFORMER, T5 = "vision_model", "qformer", "language_model"


def public_tensors(kind: str, size: str) -> dict[str, list[int]]:
    """Name -> shape of everything in a public file, written down from the tables of hf-checkpoint-facts, section 2."""
    v, m, h, f = 1408, 6144, 768, 3072
    d, k, inner = TEXT[size]["d_model"], TEXT[size]["d_ff"], TEXT[size]["num_heads"] * 64
    out: dict[str, list[int]] = {}

    def both(name: str, *shape: int) -> None:
        out.update({f"{name}.weight": list(shape), f"{name}.bias": [shape[0]]})

    out |= {f"{VISION}.embeddings.class_embedding": [1, 1, v], f"{VISION}.embeddings.position_embedding": [1, 257, v]}
    both(f"{VISION}.embeddings.patch_embedding", v, 3, 14, 14)
    both(f"{VISION}.post_layernorm", v)
    for n in range(39):
        layer = f"{VISION}.encoder.layers.{n}"
        for norm in ("layer_norm1", "layer_norm2"):
            both(f"{layer}.{norm}", v)
        both(f"{layer}.self_attn.qkv", 3 * v, v)
        both(f"{layer}.self_attn.projection", v, v)
        both(f"{layer}.mlp.fc1", m, v)
        both(f"{layer}.mlp.fc2", v, m)
    out["query_tokens"] = [1, 32, h]
    both("language_projection", d, h)
    if kind == "instructblip":
        out[f"{QFORMER}.embeddings.word_embeddings.weight"] = [30523, h]
        out[f"{QFORMER}.embeddings.position_embeddings.weight"] = [512, h]
        both(f"{QFORMER}.embeddings.layernorm", h)
    else:
        both(f"{QFORMER}.layernorm", h)
    for n in range(12):
        layer = f"{QFORMER}.encoder.layer.{n}"
        for attention, source in (("attention", h), ("crossattention", v)):
            if attention == "crossattention" and n % 2:
                continue
            both(f"{layer}.{attention}.attention.query", h, h)
            both(f"{layer}.{attention}.attention.key", h, source)
            both(f"{layer}.{attention}.attention.value", h, source)
            both(f"{layer}.{attention}.output.dense", h, h)
            both(f"{layer}.{attention}.output.LayerNorm", h)
        for half in ("_query", "") if kind == "instructblip" else ("_query",):
            both(f"{layer}.intermediate{half}.dense", f, h)
            both(f"{layer}.output{half}.dense", h, f)
            both(f"{layer}.output{half}.LayerNorm", h)
    out |= {f"{T5}.shared.weight": [32128, d], f"{T5}.lm_head.weight": [32128, d]}
    for side, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        out[f"{T5}.{side}.final_layer_norm.weight"] = [d]
        heads = TEXT[size]["num_heads"]
        out[f"{T5}.{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = [32, heads]
        for n in range(24):
            for i, attention in enumerate(attentions):
                layer = f"{T5}.{side}.block.{n}.layer.{i}"
                out |= {f"{layer}.{attention}.{name}.weight": [inner, d] for name in "qkv"}
                out |= {f"{layer}.{attention}.o.weight": [d, inner], f"{layer}.layer_norm.weight": [d]}
            layer = f"{T5}.{side}.block.{n}.layer.{len(attentions)}"
            out |= {f"{layer}.DenseReluDense.{name}.weight": [k, d] for name in ("wi_0", "wi_1")}
            out |= {f"{layer}.DenseReluDense.wo.weight": [d, k], f"{layer}.layer_norm.weight": [d]}
    return out


@pytest.fixture(scope="module", params=[(kind, size) for kind in KINDS for size in TEXT], ids="-".join)
def full(request, tmp_path_factory):
    """kind, size, config, and our parameters on eight devices."""
    kind, size = request.param
    text = {"model_type": "t5", "num_layers": 24, "num_decoder_layers": 24, "d_kv": 64, "vocab_size": 32128}
    text |= {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "tie_word_embeddings": False}
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps({"model_type": KINDS[kind], "text_config": text | TEXT[size]}))
    config = hf_config.parse(path)
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    _, train, frozen = abstract(config, mesh=mesh, dtype="bfloat16", trainable="qformer")
    return kind, size, config, train, frozen


def count(arrays) -> int:
    return sum(math.prod(x.shape) for x in arrays.values())


def test_every_public_tensor_with_its_shape_and_no_other(full):
    kind, size, config, train, frozen = full
    ours = {}
    for path, rule in table.rules(config).items():
        leaf = (train | frozen)[path]
        ours |= {name: list(rule.tensor_shape(leaf.shape)) for name in rule.names(leaf.shape)}
    assert ours == public_tensors(kind, size)


def test_the_trained_parameters_are_as_many_as_the_papers(full):
    kind, size, _, train, frozen = full
    projection = 769 * TEXT[size]["d_model"]
    if kind == "instructblip":
        assert count(train) == TRAINED[kind, size] - LN_VISION
    else:
        assert count(train) == BLIP2_QFORMER + QUERIES + projection
    # Nothing is counted twice or lost: the fused qkv of the tower is three of ours.
    assert count(train) + count(frozen) == sum(map(math.prod, public_tensors(kind, size).values()))


def test_nothing_is_allocated_and_types_are_as_promised(full):
    *_, train, frozen = full
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in (train | frozen).values())
    assert {x.dtype.name for x in train.values()} == {"float32"}
    assert {x.dtype.name for x in frozen.values()} == {"bfloat16"}


def test_shardings_divide_every_array_and_almost_all_bytes(full):
    *_, train, frozen = full
    whole = held = 0
    for path, leaf in (train | frozen).items():
        shard = leaf.sharding.shard_shape(leaf.shape)  # raises where a size is not divisible
        assert len(leaf.sharding.spec) <= leaf.ndim, path
        whole += math.prod(leaf.shape) * leaf.dtype.itemsize
        held += math.prod(shard) * leaf.dtype.itemsize
    assert held < 1.02 * whole / 8  # norms, biases and odd vocabularies may stay whole
