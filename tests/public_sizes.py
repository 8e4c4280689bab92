"""Name -> shape of every tensor in the public files, written down from the tables of hf-checkpoint-facts, section 2."""

VISION, QFORMER, LLM = "vision_model", "qformer", "language_model"
Shapes = dict[str, list[int]]


def both(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": list(shape), f"{name}.bias": [shape[0]]}


def towers(instruct: bool, d: int) -> Shapes:
    """Vision tower, Q-Former (``instruct``: with its text half) and the projection to width ``d``."""
    v, m, h, f = 1408, 6144, 768, 3072
    out: Shapes = {}
    out |= {f"{VISION}.embeddings.class_embedding": [1, 1, v], f"{VISION}.embeddings.position_embedding": [1, 257, v]}
    out |= both(f"{VISION}.embeddings.patch_embedding", v, 3, 14, 14)
    out |= both(f"{VISION}.post_layernorm", v)
    for n in range(39):
        layer = f"{VISION}.encoder.layers.{n}"
        for norm in ("layer_norm1", "layer_norm2"):
            out |= both(f"{layer}.{norm}", v)
        out |= both(f"{layer}.self_attn.qkv", 3 * v, v)
        out |= both(f"{layer}.self_attn.projection", v, v)
        out |= both(f"{layer}.mlp.fc1", m, v)
        out |= both(f"{layer}.mlp.fc2", v, m)
    out["query_tokens"] = [1, 32, h]
    out |= both("language_projection", d, h)
    if instruct:
        out[f"{QFORMER}.embeddings.word_embeddings.weight"] = [30523, h]
        out[f"{QFORMER}.embeddings.position_embeddings.weight"] = [512, h]
        out |= both(f"{QFORMER}.embeddings.layernorm", h)
    else:
        out |= both(f"{QFORMER}.layernorm", h)
    for n in range(12):
        layer = f"{QFORMER}.encoder.layer.{n}"
        for attention, source in (("attention", h), ("crossattention", v)):
            if attention == "crossattention" and n % 2:
                continue
            out |= both(f"{layer}.{attention}.attention.query", h, h)
            out |= both(f"{layer}.{attention}.attention.key", h, source)
            out |= both(f"{layer}.{attention}.attention.value", h, source)
            out |= both(f"{layer}.{attention}.output.dense", h, h)
            out |= both(f"{layer}.{attention}.output.LayerNorm", h)
        for half in ("_query", "") if instruct else ("_query",):
            out |= both(f"{layer}.intermediate{half}.dense", f, h)
            out |= both(f"{layer}.output{half}.dense", h, f)
            out |= both(f"{layer}.output{half}.LayerNorm", h)
    return out


def t5(d: int, k: int, heads: int) -> Shapes:
    """T5 v1.1 of width ``d``, inner width ``k``."""
    inner = heads * 64
    out: Shapes = {}
    out |= {f"{LLM}.shared.weight": [32128, d], f"{LLM}.lm_head.weight": [32128, d]}
    for side, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        out[f"{LLM}.{side}.final_layer_norm.weight"] = [d]
        out[f"{LLM}.{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = [32, heads]
        for n in range(24):
            for i, attention in enumerate(attentions):
                layer = f"{LLM}.{side}.block.{n}.layer.{i}"
                out |= {f"{layer}.{attention}.{name}.weight": [inner, d] for name in "qkv"}
                out |= {f"{layer}.{attention}.o.weight": [d, inner], f"{layer}.layer_norm.weight": [d]}
            layer = f"{LLM}.{side}.block.{n}.layer.{len(attentions)}"
            out |= {f"{layer}.DenseReluDense.{name}.weight": [k, d] for name in ("wi_0", "wi_1")}
            out |= {f"{layer}.DenseReluDense.wo.weight": [d, k], f"{layer}.layer_norm.weight": [d]}
    return out


def llama(d: int, k: int, layers: int, rows: int) -> Shapes:
    """LLaMA of width ``d``, inner width ``k``; as many key heads as query heads."""
    out = {f"{LLM}.model.embed_tokens.weight": [rows, d], f"{LLM}.lm_head.weight": [rows, d]}
    out[f"{LLM}.model.norm.weight"] = [d]
    for n in range(layers):
        layer = f"{LLM}.model.layers.{n}"
        out |= {f"{layer}.self_attn.{name}_proj.weight": [d, d] for name in "qkvo"}
        out |= {f"{layer}.mlp.{name}_proj.weight": [k, d] for name in ("gate", "up")}
        out[f"{layer}.mlp.down_proj.weight"] = [d, k]
        out |= {f"{layer}.{name}_layernorm.weight": [d] for name in ("input", "post_attention")}
    return out


def opt(d: int, k: int, layers: int, rows: int) -> Shapes:
    """OPT of width ``d``, inner width ``k``; its head is the embedding."""
    decoder = f"{LLM}.model.decoder"
    out = {f"{decoder}.embed_tokens.weight": [rows, d], f"{decoder}.embed_positions.weight": [2050, d]}
    out |= both(f"{decoder}.final_layer_norm", d)
    for n in range(layers):
        layer = f"{decoder}.layers.{n}"
        for name in ("q", "k", "v", "out"):
            out |= both(f"{layer}.self_attn.{name}_proj", d, d)
        out |= both(f"{layer}.fc1", k, d) | both(f"{layer}.fc2", d, k)
        out |= both(f"{layer}.self_attn_layer_norm", d) | both(f"{layer}.final_layer_norm", d)
    return out
