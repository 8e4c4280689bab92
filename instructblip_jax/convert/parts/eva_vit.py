"""EVA ViT: their ``vision_model.`` <-> our ``vit/``."""

from instructblip_jax.convert.positions import resized
from instructblip_jax.convert.rule import LEADING, Rule, dense, norm, patches, third
from instructblip_jax.models.towers.vit import VitConfig


def rules(config: VitConfig, stored_grid: int = 0) -> list[Rule]:
    """The table of the vision tower. Their fused qkv is our q, k and v.

    ``stored_grid``: patches along a side that the stored position embeddings are for, if not the tower's own number.
    """
    positions = resized(stored_grid, config.grid) if stored_grid not in (0, config.grid) else LEADING
    block = "vision_model.encoder.layers.{layer}"
    embeddings = "vision_model.embeddings"
    table = [
        Rule("vit/class_token", f"{embeddings}.class_embedding", LEADING),
        Rule("vit/position", f"{embeddings}.position_embedding", positions),
        Rule("vit/patch/kernel", f"{embeddings}.patch_embedding.weight", patches(config.patch_size)),
        Rule("vit/patch/bias", f"{embeddings}.patch_embedding.bias"),
        *norm("vit/post_norm", "vision_model.post_layernorm"),
        *norm("vit/layers/norm1", f"{block}.layer_norm1"),
        *norm("vit/layers/norm2", f"{block}.layer_norm2"),
        *dense("vit/layers/attn/o", f"{block}.self_attn.projection"),
        *dense("vit/layers/up", f"{block}.mlp.fc1"),
        *dense("vit/layers/down", f"{block}.mlp.fc2"),
    ]
    for part, name in enumerate("qkv"):
        for rule in dense(f"vit/layers/attn/{name}", f"{block}.self_attn.qkv"):
            table.append(Rule(rule.ours, rule.theirs, third(rule.transform, part)))
    return table
