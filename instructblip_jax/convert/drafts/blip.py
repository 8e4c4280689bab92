"""BLIP before pre-training, from a ViT and a BERT (arXiv 2201.12086, section 3.1), or one of its forms from another.

A decoder is initialised from the pre-trained one, which shares everything except self-attention and head with the
encoder. Both sets of NLVR2's cross-attention are initialised from the one of pre-training.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import plain_vit, qformer_from_bert, vocabulary
from instructblip_jax.convert.assemble import Draft
from instructblip_jax.convert.config_fields import fields
from instructblip_jax.convert.drafts import picture_text
from instructblip_jax.convert.layouts import hf_blip
from instructblip_jax.convert.layouts.hf_blip import DECODER, ENCODER, HEAD, TASKS, VIT
from instructblip_jax.convert.layouts.picture_text import task_of
from instructblip_jax.convert.new_rows import SCALE, with_rows
from instructblip_jax.convert.parts import timm_vit
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.write import Lazy, Tensor, read
from instructblip_jax.files import read_json
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.processors.image import PREPROCESSOR

BEGINNINGS = {"pretraining": tuple(TASKS), "retrieval": ("retrieval", "reasoning")}
"""Form -> the forms that can be made from it; the others need a decoder."""
BIAS = "cls.predictions.bias"
NEW_TOKENS = 2
"""[DEC] and [ENC], the rows after BERT's."""
_HEADS = re.compile(r"(vision_proj|text_proj|itm_head|cls_head)\.")
_NEW = re.compile(rf"{_HEADS.pattern}|.+\.crossattention\.|{re.escape(HEAD)}")
_OWN = re.compile(r"encoder\.layer\.\d+\.attention\.")
"""Self-attention, which encoder and decoder do not share."""
_CROSS = re.compile(r"(encoder\.layer\.\d+\.crossattention\.)(self|output\.dense)\.(.+)")


def draft(model_type: str, parts: Mapping[str, Path], seed: int, task: str = "") -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`.

    ``task``: the form to make from a "model", a name of `layouts.hf_blip.TASKS`. Projections and heads that no part has
    are initialised as torch's linear layers with a bias of 0, cross-attention as BERT's own matrices.
    """
    if "model" in parts:
        return _other_form(parts["model"], task, seed)
    bert = parts["bert"]
    vision, tower = plain_vit.read(parts["vision"])
    names = timm_vit.hugging_face(VitConfig(**fields(bert, "", VitConfig, vision)))
    tensors: dict[str, Tensor] = {VIT[1] + names[name]: tensor for name, tensor in tower.items() if name in names}
    found = dict(picture_text.bert_tensors(bert))
    rows = found[f"bert.{qformer_from_bert.WORDS}"].shape[0]
    for name, tensor in found.items():
        if name.startswith("cls."):
            tensors[HEAD + name.removeprefix("cls.predictions.")] = _longer(tensor) if name == BIAS else tensor
        elif not name.endswith("token_type_embeddings.weight"):
            plain = name.removeprefix("bert.")
            tensors[ENCODER + plain] = tensor
            if _OWN.match(plain):
                tensors[DECODER + plain] = tensor
    words = f"{ENCODER}{qformer_from_bert.WORDS}"
    tensors[words] = with_rows(tensors[words], rows + NEW_TOKENS, seed)
    text = qformer_from_bert.read_config(bert) | {"vocab_size": rows + NEW_TOKENS}
    new = partial(draw, seed=seed, scale=qformer_from_bert.initializer_range(bert))
    return whole(vision, text, {}, tensors, bert, bert, "pretraining", new)


def _longer(bias: Tensor) -> Lazy:
    """A head's bias with zeros for the new tokens."""
    shape = (bias.shape[0] + NEW_TOKENS,)
    return Lazy(shape, bias.dtype, lambda: np.concatenate([read(bias), np.zeros(NEW_TOKENS, bias.dtype)]))


def whole(
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    more: Mapping[str, Any],
    tensors: dict[str, Tensor],
    bert: Path,
    source: Path,
    task: str,
    draw: Callable[[str, Shape], Lazy | None],
) -> Draft:
    """The draft of a form with these sizes, with BERT's tokenizer and BLIP's image settings. ``more``: top-level fields
    of config.json.

    Raises ValueError if the tokenizer does not fit.
    """
    words = _tokenizer(bert, text["vocab_size"])
    ids = {f"{name}_token_id": words.id_of(f"{name}_token") for name in ("sep", "pad")}
    config = {
        "architectures": [TASKS[task]],
        "image_text_hidden_size": 256,
        "model_type": hf_blip.KIND,
        **more,
        "text_config": {
            "model_type": "blip_text_model",
            "is_decoder": True,
            "projection_dim": text["hidden_size"],
            **text,
            **ids,
            "bos_token_id": text["vocab_size"] - NEW_TOKENS,
        },
        "vision_config": {"model_type": "blip_vision_model", **vision},
    }
    files = {"config.json": config, PREPROCESSOR: picture_text.image_settings(vision["image_size"])}
    return Draft(tensors, files, {"": words}, source, draw)


def _tokenizer(directory: Path, rows: int) -> vocabulary.Vocabulary:
    words = vocabulary.for_pairs(directory, rows - NEW_TOKENS)
    words.config["processor_class"] = "BlipProcessor"
    return words


def _other_form(directory: Path, task: str, seed: int) -> Draft:
    """The draft of the form ``task`` from a model directory of a form that it can be made from."""
    path = directory / "config.json"
    raw, config = read_json(path), hf_blip.read_config(path)
    found = task_of(path, raw, TASKS)
    if task not in BEGINNINGS.get(found, ()):
        able = " or ".join(TASKS[name] for name, forms in BEGINNINGS.items() if task in forms)
        raise ValueError(f"{path}: architectures is {TASKS[found]}; {TASKS[task]} begins with {able}")
    return picture_text.other_form(
        directory,
        raw,
        config,
        hf_blip.rules(config),
        hf_blip.ignored(config),
        TASKS[task],
        partial(_places, task=task),
        (DECODER,) if task == "question_answering" else (),
        _tokenizer(directory, config.text.vocab_size),
        partial(draw, seed=seed),
    )


def _places(name: str, *, task: str) -> Iterator[str]:
    """The names that a tensor of pre-training or retrieval has in the form ``task``."""
    writes = task in ("captioning", "question_answering")
    if name.startswith(VIT[1]) or task == "pretraining":
        yield name
    elif name.startswith(ENCODER):
        plain = name.removeprefix(ENCODER)
        if task == "reasoning" and (match := _CROSS.fullmatch(plain)):
            yield from (f"{ENCODER}{match[1]}{match[2]}{n}.{match[3]}" for n in range(2))
        elif task != "captioning":
            yield name
        if writes and not _OWN.match(plain):
            yield DECODER + plain
    elif name.startswith((DECODER, HEAD)):
        if writes:
            yield name
    elif task == "retrieval":
        yield name


def draw(name: str, shape: Shape, *, seed: int, scale: float = SCALE) -> Lazy | None:
    """A new tensor for one that no part has, if it may be new: cross-attention, normal(0, ``scale``), projections,
    heads, temperature."""
    if name != "temp" and not _NEW.match(name):
        return None
    return picture_text.first_value(name, shape, linear=bool(_HEADS.match(name)), seed=seed, scale=scale)
