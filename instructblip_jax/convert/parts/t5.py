"""T5: their ``language_model.`` <-> our ``llm/``."""

from instructblip_jax.convert.rule import TRANSPOSE, Rule, dense, norm


def _attention(ours: str, theirs: str, name: str) -> list[Rule]:
    table = norm(f"{ours}/norm", f"{theirs}.layer_norm", bias=False)
    for short in "qkvo":
        table += dense(f"{ours}/attn/{short}", f"{theirs}.{name}.{short}", bias=False)
    return table


def _feed_forward(ours: str, theirs: str) -> list[Rule]:
    table = norm(f"{ours}/norm", f"{theirs}.layer_norm", bias=False)
    for short, name in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
        table += dense(f"{ours}/{short}", f"{theirs}.DenseReluDense.{name}", bias=False)
    return table


def rules() -> list[Rule]:
    """The table of the language model. Files without a head of their own are tied: the head is the embedding."""
    shared = "language_model.shared.weight"
    aliases = ("language_model.encoder.embed_tokens.weight", "language_model.decoder.embed_tokens.weight")
    table = [
        Rule("llm/shared/embedding", shared, others=aliases),
        Rule("llm/head/kernel", "language_model.lm_head.weight", TRANSPOSE, others=(shared, *aliases)),
    ]
    for side in ("encoder", "decoder"):
        ours, theirs = f"llm/{side}", f"language_model.{side}"
        block = f"{theirs}.block.{{layer}}.layer"
        first = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table += [Rule(f"{ours}/relative", first), *norm(f"{ours}/norm", f"{theirs}.final_layer_norm", bias=False)]
        table += _attention(f"{ours}/layers/self_attention", f"{block}.0", "SelfAttention")
        if side == "decoder":
            table += _attention(f"{ours}/layers/cross_attention", f"{block}.1", "EncDecAttention")
        table += _feed_forward(f"{ours}/layers/ffn", f"{block}.{2 if side == 'decoder' else 1}")
    return table
