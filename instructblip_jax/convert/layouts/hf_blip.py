"""Hugging Face's layout of BLIP, and our layout in the same style of the missing forms, pre-training and NLVR2.

Tensors that also occur in a public form have its names. Pre-training has "text_encoder." with cross-attention and the
self-attention and head of the decoder, which shares the rest ("text_decoder.bert.encoder.layer.N.attention.",
"text_decoder.cls.predictions."). NLVR2's are those of the original's file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert.config_fields import checked, fields
from instructblip_jax.convert.layouts import picture_text
from instructblip_jax.convert.parts import bert, eva_vit, paired_bert
from instructblip_jax.convert.rule import Rule, dense
from instructblip_jax.models.language.bert import BertConfig
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.blip import BlipConfig
from instructblip_jax.systems.blip_answers import BlipAnswerConfig
from instructblip_jax.systems.blip_captions import BlipCaptionConfig
from instructblip_jax.systems.blip_classes import BlipClassConfig
from instructblip_jax.systems.blip_pairs import BlipPairConfig

KIND = "blip"
TASKS = {
    "pretraining": "BlipForPreTraining",
    "retrieval": "BlipForImageTextRetrieval",
    "captioning": "BlipForConditionalGeneration",
    "question_answering": "BlipForQuestionAnswering",
    "reasoning": "BlipForVisualReasoning",
}
"""Form -> its name in ``architectures``; the first and the last are ours."""
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 384,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
"""Hugging Face's class defaults of a vision_config."""
TEXT = {
    "vocab_size": 30524,
    "num_attention_heads": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
"""Hugging Face's class defaults of a text_config that differ from bert-base-uncased."""
IDS = {"dec_id": "bos_token_id", "sep_id": "sep_token_id", "pad_id": "pad_token_id"}
"""Fields of ours -> those of text_config."""
VIT = ("vit/", "vision_model.")
ENCODER, DECODER, HEAD = "text_encoder.", "text_decoder.bert.", "text_decoder.cls.predictions."


def read_config(path: Path) -> BlipConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw, task, tower, section = picture_text.read(path, KIND, TASKS)
    vision = VitConfig(**fields(path, "vision_config", VitConfig, VISION | _present(tower)))
    # Hugging Face overwrites the file's encoder_hidden_size with the width of the vision tower.
    given = fields(path, "text_config", BertConfig, TEXT | _present(section))
    text = BertConfig(**given | {"encoder_hidden_size": vision.hidden_size, "token_types": False})
    picture_text.check_sizes(path, vision, text)
    ids = {}
    for name, field in IDS.items():
        found = section.get(field)
        ids[name] = checked(path, f"text_config.{field}", getattr(BlipConfig, name) if found is None else found, int)
    more = {**ids, "embed_dim": checked(path, "image_text_hidden_size", raw.get("image_text_hidden_size", 256), int)}
    largest = "dec_id" if task == "captioning" else "enc_id"
    config = _form(path, task, section, vision, text, more)
    if getattr(config, largest) >= text.vocab_size:
        raise ValueError(
            f"{path}: text_config.bos_token_id is {config.dec_id}: [DEC], and after it [ENC], need a row of the "
            f"embedding, and vocab_size is {text.vocab_size}"
        )
    return config


def _present(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if value is not None}


def _form(
    path: Path, task: str, section: Mapping[str, Any], vision: VitConfig, text: BertConfig, more: dict[str, Any]
) -> BlipConfig:
    if task in ("pretraining", "retrieval"):
        return BlipPairConfig(vision, text, **more, writes=task == "pretraining")
    if task == "captioning":
        return BlipCaptionConfig(vision, text, **more)
    if task == "question_answering":
        return BlipAnswerConfig(vision, text, **more)
    merge = checked(path, "text_config.merge_layer", section.get("merge_layer", 6), int)
    if merge >= text.num_hidden_layers:
        raise ValueError(
            f"{path}: text_config.merge_layer is {merge}, and num_hidden_layers {text.num_hidden_layers}: the last "
            "layers merge two images by a linear map"
        )
    return BlipClassConfig(vision, text, **more, merge_layer=merge)


def rules(config: BlipConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    table = eva_vit.rules(config.vision, *VIT, stored_grid=config.stored_image_size // config.vision.patch_size)
    text = config.text
    if isinstance(config, BlipCaptionConfig):
        table += _decoder(text, "med/")
    else:
        table += bert.embeddings(text, "med/embeddings/", ENCODER)
    if isinstance(config, BlipClassConfig):
        table += paired_bert.layers("med/layers/", ENCODER, merge=False)
        table += paired_bert.layers("med/merging/", ENCODER, merge=True, start=config.merge_layer)
        table += dense("med/inner", "cls_head.0") + dense("med/head", "cls_head.2")
    elif not isinstance(config, BlipCaptionConfig):
        table += bert.layers("med/layers/", ENCODER, cross=True)
    if isinstance(config, BlipAnswerConfig):
        table += _decoder(text, "med/decoder/")
    if isinstance(config, BlipPairConfig):
        for name in ("vision_proj", "text_proj", "itm_head"):
            table += dense(f"med/{name}", name)
        table.append(Rule("med/temp", "temp", new=None if config.writes else picture_text.first_temperature))
        if config.writes:
            block = f"{DECODER}encoder.layer.{{layer}}.attention"
            table += bert.attention("med/decoder_attention", block) + bert.head("med/head/", HEAD)
    return {rule.ours: rule for rule in table}


def _decoder(text: BertConfig, ours: str) -> list[Rule]:
    return [
        *bert.embeddings(text, f"{ours}embeddings/", DECODER),
        *bert.layers(f"{ours}layers/", DECODER, cross=True),
        *bert.head(f"{ours}head/", HEAD),
    ]


def ignored(config: BlipConfig) -> re.Pattern[str]:
    """Names of extra tensors in old files: position indices, and aliases of a head's tied matrix and bias."""
    found = [bert.ignored(re.escape(prefix)) for prefix in (ENCODER, DECODER)]
    return re.compile("|".join([*found, bert.ignored_head(re.escape(HEAD))]))
