"""LLaMA: their ``language_model.`` <-> our ``llm/``."""

from instructblip_jax.convert.rule import TRANSPOSE, Rule, dense, norm


def rules() -> list[Rule]:
    """The table of the language model. The public weights are permuted for half-split rotary positions already."""
    block = "language_model.model.layers.{layer}"
    tokens = "language_model.model.embed_tokens.weight"
    table = [
        Rule("llm/tokens/embedding", tokens),
        Rule("llm/to_vocab/kernel", "language_model.lm_head.weight", TRANSPOSE, others=(tokens,)),
        *norm("llm/norm", "language_model.model.norm", bias=False),
        *norm("llm/layers/attn_norm", f"{block}.input_layernorm", bias=False),
        *norm("llm/layers/ffn_norm", f"{block}.post_attention_layernorm", bias=False),
    ]
    for short in "qkvo":
        table += dense(f"llm/layers/attn/{short}", f"{block}.self_attn.{short}_proj", bias=False)
    for name in ("gate", "up", "down"):
        table += dense(f"llm/layers/{name}", f"{block}.mlp.{name}_proj", bias=False)
    return table
