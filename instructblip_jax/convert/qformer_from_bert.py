"""The half of InstructBLIP's Q-Former that reads text, from BERT: BLIP-2's public files have only the other half.

In BLIP-2's first stage this half began as BERT-base-uncased; what it became there is not in the files of the second.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from instructblip_jax.convert.new_rows import with_rows
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Tensor, stored

WORDS, POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
_QUERY_TWIN = re.compile(r"qformer\.(encoder\.layer\.\d+\.(?:intermediate|output))_query(\..+)")


def _plain(name: str) -> str:
    """BERT's names in one spelling: no prefix, and weight and bias for what old files call gamma and beta."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def text_half(directory: Path, qformer: Mapping[str, Shape], *, seed: int) -> dict[str, Tensor]:
    """Hugging Face name -> tensor, as BERT stores it: embeddings, and each layer's feed-forward for text.

    The word embedding has one new row, for ``[DEC]``. ``qformer``: name -> shape in the BLIP-2 checkpoint, whose
    feed-forward for queries is as large in every layer. Raises one ValueError for all missing and mis-shaped tensors.
    """
    shards = open_shards(directory)
    names = {_plain(name): name for name in shards.shapes}
    width = qformer["query_tokens"][-1]
    wanted: dict[str, Shape | None] = {WORDS: None, POSITIONS: None}
    for name, shape in qformer.items():
        if twin := _QUERY_TWIN.fullmatch(name):
            wanted["".join(twin.groups())] = shape
    wrong = []
    for name, want in wanted.items():
        found = shards.shapes[names[name]] if name in names else None
        if found is None:
            wrong.append(f"missing     {name}")
        elif (found[1:] != (width,)) if want is None else (found != want):
            rest = f"[rows, {width}]" if want is None else f"{list(want)}"
            wrong.append(f"mis-shaped  {name} {list(found)}, the Q-Former asks for {rest}")
    if wrong:
        raise ValueError(f"{directory}: no BERT for this Q-Former, {len(wrong)} tensors:\n  " + "\n  ".join(wrong))
    half: dict[str, Tensor] = {f"qformer.{name}": stored(shards, names[name]) for name in wanted}
    words = half[f"qformer.{WORDS}"]
    half[f"qformer.{WORDS}"] = with_rows(words, words.shape[0] + 1, seed)
    return half
