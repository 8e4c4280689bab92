"""ALBEF before pre-training, from a DeiT and a BERT (arXiv 2107.07651, section 3.1), or one of its forms from another.

An answer decoder is initialised from the layers that attend to the image, and both layers of an NLVR2 pair from the
same layer.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from instructblip_jax.convert import plain_vit, qformer_from_bert, vocabulary
from instructblip_jax.convert.assemble import Draft
from instructblip_jax.convert.drafts import picture_text
from instructblip_jax.convert.layouts import albef
from instructblip_jax.convert.layouts.albef import DECODER, TASKS, TEXT, VIT
from instructblip_jax.convert.layouts.picture_text import task_of
from instructblip_jax.convert.new_rows import SCALE
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.write import Lazy, Tensor
from instructblip_jax.files import read_json
from instructblip_jax.processors.image import PREPROCESSOR

BEGINNINGS = ("pretraining", "retrieval")
"""Forms from which others can be made."""
BERT = "bert."
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_LINEAR = re.compile(r"(vision_proj|text_proj|itm_head|cls_head)\.")
_NEW = re.compile(rf"{_LINEAR.pattern}|.+\.crossattention\.|text_(en|de)coder\.cls\.")
_KEYS_VALUES = re.compile(r"crossattention\.self\.(key|value)\.")


def draft(model_type: str, parts: Mapping[str, Path], seed: int, task: str = "") -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`.

    ``task``: the form to make from a "model", a name of `layouts.albef.TASKS`. Projections and heads that no part has
    are initialised as torch's linear layers with a bias of 0, cross-attention as BERT's own matrices.
    """
    if "model" in parts:
        return _other_form(parts["model"], task, seed)
    bert = parts["bert"]
    vision, tensors = plain_vit.read(parts["vision"])
    tensors = {VIT + name: tensor for name, tensor in tensors.items()}
    text = qformer_from_bert.read_config(bert)
    tensors |= {f"{TEXT}{name}": tensor for name, tensor in picture_text.bert_tensors(bert)}
    words = tensors[f"{TEXT}{BERT}{qformer_from_bert.WORDS}"].shape[0]
    config = {"text_config": text | {"vocab_size": words, "fusion_layer": text["num_hidden_layers"] // 2}}
    new = partial(draw, seed=seed, scale=qformer_from_bert.initializer_range(bert))
    return whole(config | {"vision_config": vision}, tensors, bert, bert, "pretraining", new)


def whole(
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    bert: Path,
    source: Path,
    task: str,
    draw: Callable[[str, Shape], Lazy | None],
) -> Draft:
    """The draft of a form with the sizes of ``config``, with BERT's tokenizer and ALBEF's image settings.

    Raises ValueError if the tokenizer does not fit.
    """
    text = dict(config["text_config"])
    words = vocabulary.for_pairs(bert, text["vocab_size"])
    for name in ("cls", "sep", "mask", "pad"):
        text[f"{name}_token_id"] = words.id_of(f"{name}_token")
    side = config["vision_config"]["image_size"]
    files = {
        "config.json": {
            "architectures": [TASKS[task]],
            "model_type": albef.KIND,
            "add_sep": False,
            "embed_dim": 256,
            **config,
            "text_config": text,
        },
        PREPROCESSOR: picture_text.image_settings(side),
    }
    return Draft(tensors, files, {"": words}, source, draw)


def _other_form(directory: Path, task: str, seed: int) -> Draft:
    """The draft of the form ``task`` from a model directory of a form that it can be made from."""
    path = directory / "config.json"
    raw, config = read_json(path), albef.read_config(path)
    found = task_of(path, raw, TASKS)
    if found not in BEGINNINGS:
        raise ValueError(
            f"{path}: architectures is {TASKS[found]}; other forms begin with "
            f"{' or '.join(TASKS[name] for name in BEGINNINGS)}"
        )
    return picture_text.other_form(
        directory,
        raw,
        config,
        albef.rules(config),
        albef.ignored(config),
        TASKS[task],
        partial(_places, found=found, task=task, start=config.fusion_layer),
        (DECODER,),
        vocabulary.for_pairs(directory, config.text.vocab_size),
        partial(draw, seed=seed),
    )


def _places(name: str, *, found: str, task: str, start: int) -> Iterator[str]:
    """The names that a tensor of the form ``found`` has in the form ``task``. ``start``: the first fusion layer."""
    old, new = albef.encoder(found), albef.encoder(task)
    if name.startswith(f"{TEXT}cls."):
        if task == "pretraining":
            yield name
        elif task == "question_answering":
            yield DECODER + name.removeprefix(TEXT)
        return
    if not name.startswith(old):
        if name.startswith(VIT) or task in BEGINNINGS:
            yield name
        return
    rest = name.removeprefix(old)
    layer = _LAYER.fullmatch(rest)
    number = int(layer[1]) if layer else -1
    if layer and number >= start and task == "reasoning":
        for n in (0, 1):
            if n == 0 or not _KEYS_VALUES.search(rest):
                yield f"{new}encoder.layer.{2 * number - start + n}.{layer[2]}"
    else:
        yield new + rest
    if task == "question_answering":
        if layer is None:
            yield f"{DECODER}{BERT}{rest}"
        elif number >= start:
            yield f"{DECODER}{BERT}encoder.layer.{number - start}.{layer[2]}"


def draw(name: str, shape: Shape, *, seed: int, scale: float = SCALE) -> Lazy | None:
    """A new tensor for one that no part has, if it may be new: cross-attention, normal(0, ``scale``), projections,
    heads, temperature."""
    if name != "temp" and not _NEW.match(name):
        return None
    return picture_text.first_value(name, shape, linear=bool(_LINEAR.match(name)), seed=seed, scale=scale)
