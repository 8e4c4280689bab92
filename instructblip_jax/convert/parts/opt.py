"""OPT: their ``language_model.`` <-> our ``llm/``."""

from instructblip_jax.convert.rule import Rule, dense, norm


def rules() -> list[Rule]:
    """The table of the language model. The head is the embedding; old files hold a copy of it, which is not read."""
    decoder = "language_model.model.decoder"
    block = f"{decoder}.layers.{{layer}}"
    table = [
        Rule("llm/tokens/embedding", f"{decoder}.embed_tokens.weight"),
        Rule("llm/position/embedding", f"{decoder}.embed_positions.weight"),
        *norm("llm/norm", f"{decoder}.final_layer_norm"),
        *norm("llm/layers/attn_norm", f"{block}.self_attn_layer_norm"),
        *norm("llm/layers/ffn_norm", f"{block}.final_layer_norm"),
        *dense("llm/layers/attn/o", f"{block}.self_attn.out_proj"),
        *dense("llm/layers/up", f"{block}.fc1"),
        *dense("llm/layers/down", f"{block}.fc2"),
    ]
    for short in "qkv":
        table += dense(f"llm/layers/attn/{short}", f"{block}.self_attn.{short}_proj")
    return table
