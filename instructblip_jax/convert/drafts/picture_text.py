"""Drafts of ALBEF and BLIP: BERT's tensors, image settings, initial values, and one form made from another."""

import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert import qformer_from_bert
from instructblip_jax.convert.assemble import Draft, check_fits, constant, normal, uniform
from instructblip_jax.convert.export import kept
from instructblip_jax.convert.rule import Rule, Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.vocabulary import Vocabulary
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD, PREPROCESSOR, settings
from instructblip_jax.systems.pairs import TEMPERATURE

_BERT_TENSOR = re.compile(r"(embeddings|encoder\.layer\.\d+|cls\.predictions\.transform)\..+|cls\.predictions\.bias")
_BERT_ALIAS = re.compile(r"embeddings\.position_ids|.+\.gamma|.+\.beta")
_KEYS_VALUES = re.compile(r"crossattention\.self\.(key|value)\.")


def bert_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """BERT's tensors under "bert.", its masked language modelling head under "cls.predictions."."""
    shards = open_shards(directory)
    for name in shards.shapes:
        plain = qformer_from_bert.plain(name)
        if _BERT_TENSOR.fullmatch(plain) and not _BERT_ALIAS.fullmatch(plain):
            yield (plain if plain.startswith("cls.") else f"bert.{plain}"), stored(shards, name)


def image_settings(side: int) -> dict[str, Any]:
    """preprocessor_config.json for images of ``side`` pixels per side."""
    return {
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "rescale_factor": 1 / 255,
        "resample": 3,
        "size": {"height": side, "width": side},
    }


def first_value(name: str, shape: Shape, *, linear: bool, seed: int, scale: float) -> Lazy:
    """Initial values of a parameter that no part has: the temperature's; 0 for a bias and 1 for a norm; if ``linear``,
    as torch's linear layers; otherwise normal(0, ``scale``), as BERT's matrices."""
    if name == "temp":
        return constant(shape, TEMPERATURE)
    if name.endswith(".bias"):
        return constant(shape, 0)
    if "norm" in name.lower():
        return constant(shape, 1)
    number = zlib.crc32(name.encode())
    return uniform(shape, seed, number) if linear else normal(shape, scale, seed, number)


def other_form(
    directory: Path,
    raw: Mapping[str, Any],
    config: Any,
    rules: Mapping[str, Rule],
    ignored: re.Pattern[str],
    architecture: str,
    places: Callable[[str], Iterable[str]],
    decoders: Collection[str],
    words: Vocabulary,
    draw: Callable[[str, Shape], Lazy | None],
) -> Draft:
    """The draft of another form of a model directory.

    Args:
      raw: its config.json; ``config``, ``rules`` and ``ignored`` are those of its form.
      architecture: the new form's name.
      places: name of a tensor -> the names that it has in the new form.
      decoders: name prefixes of decoders that attend to states of the text: they cannot use keys and values for images
        of another width.
      words: the tokenizer.
      draw: (name, shape) -> initial values of tensors that the directory lacks.
    """
    shards = open_shards(directory)
    check_fits(config, rules, shards, ignored)
    width, tensors = config.text.hidden_size, dict[str, Tensor]()
    for name in kept(rules, ignored, shards.shapes):
        tensor = stored(shards, name)
        for new in places(name):
            foreign = new.startswith(tuple(decoders)) and _KEYS_VALUES.search(new)
            if not (foreign and tensor.shape[1:] not in ((), (width,))):
                tensors[new] = tensor
    files = {"config.json": {**raw, "architectures": [architecture]}, PREPROCESSOR: settings(directory)[2]}
    return Draft(tensors, files, {"": words}, directory, draw)
