"""BERT that reads two images, under the names of BLIP's own NLVR2 files."""

import dataclasses

from instructblip_jax.convert.parts import bert
from instructblip_jax.convert.rule import Rule, dense, norm


def layers(ours: str, theirs: str, *, merge: bool, start: int = 0) -> list[Rule]:
    """The table of a `models.language.paired_bert.PairedStack` whose first layer is their number ``start``."""
    block = f"{theirs}encoder.layer.{{layer}}.crossattention"
    table = []
    for n, name in enumerate(("first", "second")):
        table += dense(f"{ours}cross_attention/{name}/o", f"{block}.output.dense{n}")
        for part, other in zip("qkv", ("query", "key", "value"), strict=True):
            table += dense(f"{ours}cross_attention/{name}/{part}", f"{block}.self{n}.{other}")
    if merge:
        table += dense(f"{ours}cross_attention/merge", f"{block}.output.merge_layer")
    table += norm(f"{ours}cross_attention/norm", f"{block}.output.LayerNorm")
    table = [dataclasses.replace(rule, start=start) for rule in table]
    return [*bert.layers(ours, theirs, cross=False, start=start), *table]
