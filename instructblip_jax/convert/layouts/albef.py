"""ALBEF's layout, which is ours: our own config.json, and tensors named as in the original's files.

There is no public ALBEF repository in Hugging Face's layout, and transformers has no class for it.
"""

import dataclasses
import re
from pathlib import Path

from instructblip_jax.convert.config_fields import checked, fields
from instructblip_jax.convert.layouts import picture_text
from instructblip_jax.convert.parts import bert, timm_vit
from instructblip_jax.convert.rule import Rule, dense
from instructblip_jax.models.language.bert import BertConfig
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.albef import AlbefConfig
from instructblip_jax.systems.albef_answers import AlbefAnswerConfig
from instructblip_jax.systems.albef_classes import ENTAILMENT, TRUTH, AlbefClassConfig
from instructblip_jax.systems.albef_pairs import AlbefPairConfig

KIND = "albef"
TASKS = {
    "pretraining": "AlbefForPreTraining",
    "retrieval": "AlbefForImageTextRetrieval",
    "question_answering": "AlbefForQuestionAnswering",
    "reasoning": "AlbefForVisualReasoning",
    "entailment": "AlbefForVisualEntailment",
}
"""Form -> its name in ``architectures``."""
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 256,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
"""ViT-B/16 at 256 pixels, the defaults of vision_config."""
IDS = ("cls_id", "sep_id", "mask_id", "pad_id")
"""Fields of ours -> those of text_config: "cls_token_id" ..."""
VIT, TEXT, DECODER = "visual_encoder.", "text_encoder.", "text_decoder."


def read_config(path: Path) -> AlbefConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw, task, tower, section = picture_text.read(path, KIND, TASKS)
    vision = VitConfig(**fields(path, "vision_config", VitConfig, VISION | tower))
    given = fields(path, "text_config", BertConfig, section)
    types = checked(path, "text_config.add_type_embeddings", section.get("add_type_embeddings", True), bool)
    text = BertConfig(**given | {"encoder_hidden_size": vision.hidden_size, "token_types": types})
    picture_text.check_sizes(path, vision, text)
    fusion = checked(path, "text_config.fusion_layer", section.get("fusion_layer", 6), int)
    if fusion >= text.num_hidden_layers:
        raise ValueError(
            f"{path}: text_config.fusion_layer is {fusion}, and num_hidden_layers {text.num_hidden_layers}: some "
            "layers must read the picture"
        )
    ids = {name: section.get(_stored(name), getattr(AlbefConfig, name)) for name in IDS}
    for name, value in ids.items():
        if checked(path, f"text_config.{_stored(name)}", value, int) >= text.vocab_size:
            raise ValueError(f"{path}: text_config.{_stored(name)} is {value}; vocab_size is {text.vocab_size}")
    common = {
        "fusion_layer": fusion,
        "embed_dim": checked(path, "embed_dim", raw.get("embed_dim", 256), int),
        "add_sep": checked(path, "add_sep", raw.get("add_sep", False), bool),
        **ids,
    }
    if task in ("pretraining", "retrieval"):
        return AlbefPairConfig(vision, text, **common, masked_words=task == "pretraining")
    if task == "question_answering":
        return AlbefAnswerConfig(vision, text, **common)
    classes, shown = (TRUTH, 2) if task == "reasoning" else (ENTAILMENT, 1)
    return AlbefClassConfig(vision, text, **common, classes=classes, pictures_shown=shown)


def _stored(name: str) -> str:
    """The field of text_config for a token's id: "cls_id" -> "cls_token_id"."""
    return name.replace("_id", "_token_id")


def encoder(task: str) -> str:
    """The prefix of the text encoder's tensors, which differs in pre-training because of the head."""
    return f"{TEXT}bert." if task == "pretraining" else TEXT


def rules(config: AlbefConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    stored, pretraining = config.stored_image_size // config.vision.patch_size, False
    table = timm_vit.rules(config.vision, "vit/", VIT, stored_grid=stored)
    if isinstance(config, AlbefPairConfig):
        pretraining = config.masked_words
        for name in ("vision_proj", "text_proj", "itm_head"):
            table += dense(name, name)
        table.append(Rule("temp", "temp"))
        if pretraining:
            table += bert.head("head/", f"{TEXT}cls.predictions.")
    if isinstance(config, AlbefAnswerConfig):
        table += bert.embeddings(config.text, "decoder/embeddings/", f"{DECODER}bert.")
        table += bert.layers("decoder/layers/", f"{DECODER}bert.", cross=True)
        table += bert.head("decoder/head/", f"{DECODER}cls.predictions.")
    if isinstance(config, AlbefClassConfig):
        table += dense("cls_head/first", "cls_head.0") + dense("cls_head/second", "cls_head.2")
    theirs = f"{TEXT}bert." if pretraining else TEXT
    table += bert.embeddings(config.text, "embeddings/", theirs)
    table += bert.layers("text/", theirs, cross=False)
    start = config.fusion_layer
    if isinstance(config, AlbefClassConfig) and config.pictures_shown > 1:
        for n, half in enumerate(("one", "other")):
            own = bert.layers(f"fusion/{half}/", theirs, cross=True, start=start + n)
            table += [dataclasses.replace(rule, every=2) for rule in own if not (n and _shared(rule.ours))]
    else:
        table += bert.layers("fusion/", theirs, cross=True, start=start)
    return {rule.ours: rule for rule in table}


def _shared(path: str) -> bool:
    """True for the parameters that the second layer of a pair shares with the first."""
    return bool(re.search(r"/cross_attention/attn/[kv]/", path))


def ignored(config: AlbefConfig) -> re.Pattern[str]:
    """Names of extra tensors in files: position indices, a head's tied matrix, keys and values of the second layer of a
    pair."""
    found = [rf"{re.escape(prefix)}embeddings\.position_ids" for prefix in (TEXT, f"{TEXT}bert.", f"{DECODER}bert.")]
    found += [r"text_(en|de)coder\.cls\.predictions\.decoder\.(weight|bias)"]
    if isinstance(config, AlbefClassConfig) and config.pictures_shown > 1:
        found.append(rf"{re.escape(TEXT)}{second_keys(config.fusion_layer, config.text.num_hidden_layers)}")
    return re.compile("|".join(found))


def second_keys(start: int, end: int) -> str:
    """Pattern of the shared tensors of the second layers of pairs, starting with layer ``start``."""
    numbers = "|".join(str(start + 2 * n + 1) for n in range(end - start))
    return rf"encoder\.layer\.({numbers})\.crossattention\.self\.(key|value)\.(weight|bias)"
