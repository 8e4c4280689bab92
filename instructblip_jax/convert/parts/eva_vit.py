"""EVA ViT."""

from instructblip_jax.convert.positions import resized
from instructblip_jax.convert.rule import LEADING, Rule, dense, norm, patches, third
from instructblip_jax.models.towers.vit import VitConfig


def rules(config: VitConfig, ours: str, theirs: str, *, stored_grid: int = 0) -> list[Rule]:
    """The table. Their fused qkv is our q, k and v.

    ``stored_grid``: patches per side for which the files store position embeddings, 0 for the tower's own number.
    """
    positions = resized(stored_grid, config.grid) if stored_grid not in (0, config.grid) else LEADING
    block = f"{theirs}encoder.layers.{{layer}}"
    embeddings = f"{theirs}embeddings"
    table = [
        Rule(f"{ours}class_token", f"{embeddings}.class_embedding", LEADING),
        Rule(f"{ours}position", f"{embeddings}.position_embedding", positions),
        Rule(f"{ours}patch/kernel", f"{embeddings}.patch_embedding.weight", patches(config.patch_size)),
        Rule(f"{ours}patch/bias", f"{embeddings}.patch_embedding.bias"),
        *(norm(f"{ours}post_norm", f"{theirs}post_layernorm") if config.post_norm else ()),
        *norm(f"{ours}layers/norm1", f"{block}.layer_norm1"),
        *norm(f"{ours}layers/norm2", f"{block}.layer_norm2"),
        *dense(f"{ours}layers/attn/o", f"{block}.self_attn.projection"),
        *dense(f"{ours}layers/up", f"{block}.mlp.fc1"),
        *dense(f"{ours}layers/down", f"{block}.mlp.fc2"),
    ]
    for part, name in enumerate("qkv"):
        for rule in dense(f"{ours}layers/attn/{name}", f"{block}.self_attn.qkv"):
            table.append(Rule(rule.ours, rule.theirs, third(rule.transform, part)))
    return table
