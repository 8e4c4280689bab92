"""A Q-Former's weights from BERT.

The text half, which reads InstructBLIP's instructions, is not in BLIP-2's public files; in the first stage it was
initialised from bert-base-uncased. In a new Q-Former both halves are initialised from BERT, with the feed-forward for
queries as a copy of the one for text; BERT has no cross-attention and no query tokens.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import check_divisible, fields
from instructblip_jax.convert.new_rows import SCALE, with_rows
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Tensor, stored
from instructblip_jax.files import read_json
from instructblip_jax.models.bridges.qformer import QFormerConfig

WORDS, POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps"),
    *("max_position_embeddings", "hidden_dropout_prob", "attention_probs_dropout_prob"),
)
"""Fields of BERT's config.json that a Q-Former's section also has."""
_QUERY_TWIN = re.compile(r"qformer\.(encoder\.layer\.\d+\.(?:intermediate|output))_query(\..+)")


def read_config(directory: Path) -> dict[str, Any]:
    """The sizes of a BERT, as a ``qformer_config``. Raises FileNotFoundError or ValueError naming file and field."""
    path = directory / "config.json"
    raw = read_json(path)
    if raw.get("model_type") != "bert":
        raise ValueError(f"{path}: model_type is {raw.get('model_type')!r}, not 'bert'")
    sizes = fields(path, "", QFormerConfig, {name: raw[name] for name in SIZES if name in raw})
    config = QFormerConfig(**sizes)
    check_divisible(path, "", config.hidden_size, config.num_attention_heads)
    return {name: getattr(config, name) for name in SIZES}


def initializer_range(directory: Path) -> float:
    """Standard deviation of BERT's initial matrices: config.json's, or else BERT's own."""
    return read_json(directory / "config.json").get("initializer_range", SCALE)


def text_half(directory: Path, qformer: Mapping[str, Shape], *, seed: int) -> dict[str, Tensor]:
    """Hugging Face name -> tensor, as BERT stores it: embeddings, and each layer's feed-forward for text.

    The word embedding has one new row, for ``[DEC]``. ``qformer``: name -> shape in the BLIP-2 checkpoint, whose
    feed-forward for queries has the same size in every layer. Raises one ValueError for all missing and mis-shaped
    tensors.
    """
    width = qformer["query_tokens"][-1]
    wanted: dict[str, Shape] = {WORDS: (-1, width), POSITIONS: (-1, width)}
    for name, shape in qformer.items():
        if twin := _QUERY_TWIN.fullmatch(name):
            wanted["".join(twin.groups())] = shape
    found = _read(directory, wanted)
    half = {f"qformer.{name}": tensor for name, tensor in found.items()}
    words = found[WORDS]
    return half | {f"qformer.{WORDS}": with_rows(words, words.shape[0] + 1, seed)}


def both_halves(directory: Path, section: Mapping[str, Any], norm: str, *, text: bool, seed: int) -> dict[str, Tensor]:
    """Hugging Face name -> tensor of a new Q-Former, as BERT stores it, except cross-attention and query tokens.

    Args:
      directory: BERT's.
      section: its sizes, see `read_config`.
      norm: prefix of the Q-Former's first norm.
      text: with the text half, whose word embedding has one new row, for ``[DEC]``.
      seed: seed of that row.

    Raises one ValueError for all missing and mis-shaped tensors.
    """
    width, inner = section["hidden_size"], section["intermediate_size"]
    names: dict[str, list[str]] = {f"embeddings.LayerNorm.{part}": [f"{norm}{part}"] for part in ("weight", "bias")}
    wanted: dict[str, Shape] = dict.fromkeys(names, (width,))

    def add(theirs: str, rows: int, columns: int, *ours: str) -> None:
        for part, shape in (("weight", (rows, columns)), ("bias", (rows,))):
            wanted[f"{theirs}.{part}"] = shape
            names[f"{theirs}.{part}"] = [f"qformer.{name}.{part}" for name in ours]

    def add_norm(theirs: str, *ours: str) -> None:
        for part in ("weight", "bias"):
            wanted[f"{theirs}.LayerNorm.{part}"] = (width,)
            names[f"{theirs}.LayerNorm.{part}"] = [f"qformer.{name}.LayerNorm.{part}" for name in ours]

    for n in range(section["num_hidden_layers"]):
        layer = f"encoder.layer.{n}"
        halves = ("_query", "") if text else ("_query",)
        for name in ("query", "key", "value"):
            add(f"{layer}.attention.self.{name}", width, width, f"{layer}.attention.attention.{name}")
        add(f"{layer}.attention.output.dense", width, width, f"{layer}.attention.output.dense")
        add_norm(f"{layer}.attention.output", f"{layer}.attention.output")
        add(f"{layer}.intermediate.dense", inner, width, *(f"{layer}.intermediate{half}.dense" for half in halves))
        add(f"{layer}.output.dense", width, inner, *(f"{layer}.output{half}.dense" for half in halves))
        add_norm(f"{layer}.output", *(f"{layer}.output{half}" for half in halves))
    if text:
        wanted |= {WORDS: (-1, width), POSITIONS: (-1, width)}
        names |= {name: [f"qformer.{name}"] for name in (WORDS, POSITIONS)}
    found = _read(directory, wanted)
    tensors = {ours: found[theirs] for theirs, all_ours in names.items() for ours in all_ours}
    if text:
        words = found[WORDS]
        tensors[f"qformer.{WORDS}"] = with_rows(words, words.shape[0] + 1, seed)
    return tensors


def _read(directory: Path, wanted: Mapping[str, Shape]) -> dict[str, Tensor]:
    """BERT's tensors by their plain names; -1 in a shape means any size. Raises one ValueError for all misfits."""
    shards = open_shards(directory)
    names = {plain(name): name for name in shards.shapes}
    wrong = []
    for name, want in wanted.items():
        if name not in names:
            wrong.append(f"missing     {name}")
            continue
        found = shards.shapes[names[name]]
        if len(found) != len(want) or any(size not in (-1, there) for size, there in zip(want, found, strict=True)):
            shown = ", ".join("rows" if size == -1 else str(size) for size in want)
            wrong.append(f"mis-shaped  {name} {list(found)}, the Q-Former asks for [{shown}]")
    if wrong:
        raise ValueError(f"{directory}: no BERT for this Q-Former, {len(wrong)} tensors:\n  " + "\n  ".join(wrong))
    return {name: stored(shards, names[name]) for name in wanted}


def plain(name: str) -> str:
    """BERT's names in one spelling: no prefix, and weight and bias instead of gamma and beta in old files."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
