"""X-InstructBLIP's layout: ours, with the original's names of trainable tensors, the only ones that it published.

Towers have the names of their own public files, after a prefix.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import language_models
from instructblip_jax.convert.assemble import wanted
from instructblip_jax.convert.config_fields import check_divisible, check_patches, checked, fields, one_of, section_of
from instructblip_jax.convert.layouts import lavis
from instructblip_jax.convert.layouts.lavis import Original
from instructblip_jax.convert.parts import beats, eva_vit, llama, point_bert, qformer
from instructblip_jax.convert.rule import LEADING, Rule, dense, norm
from instructblip_jax.files import read_json
from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.models.layers.primitives import ACTIVATIONS
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.x_instructblip import MODALITIES, Prompt, XInstructBlipConfig

KIND = "x-instructblip"
VIT, BEATS, POINT_BERT, LLM = (
    ("vit/", "vision_model."),
    ("beats/", "audio_encoder."),
    ("point_bert/", "pc_encoder."),
    ("llm/", "language_model."),
)
"""Prefix of our paths, prefix of Hugging Face names."""
TOWERS = {
    "image": ("vision", VIT[1]),
    "video": ("vision", VIT[1]),
    "audio": ("audio", BEATS[1]),
    "pc": ("pc", POINT_BERT[1]),
}
"""Modality -> the prefix of its tower's section in config.json, and of its tensors."""
COUNTS = {
    "video": {"frames": "frames"},
    "audio": {name: name for name in ("blocks", "block", "mels")},
    "pc": {"count": "cloud"},
}
"""Modality -> the size fields of its entry in config.json -> those of the configuration."""
LINEAR = re.compile(r"(image|video|audio|pc)_projection\..+")
_BUFFER = r"_Qformer\.bert\.embeddings\.position_ids"
_HEADS = r"_Qformer\.cls\..+"


def trained_names(modality: str) -> tuple[str, ...]:
    """Name prefixes of a modality's trainable tensors."""
    return tuple(f"{modality}_{part}" for part in ("ln.", "Qformer.", "query_tokens", "llm_proj."))


def read_config(path: Path) -> XInstructBlipConfig:
    """Read ``config.json``. Raises FileNotFoundError or ValueError naming the file and the field."""
    raw = read_json(path)
    if raw.get("model_type") != KIND:
        raise ValueError(f"{path}: model_type is {raw.get('model_type')!r}; this layout is that of {KIND}")
    entries = section_of(path, raw, "modalities")
    if not entries:
        raise ValueError(
            f"{path}: modalities is empty; it needs an entry for each modality of the model: {', '.join(MODALITIES)}"
        )
    text = section_of(path, raw, "text_config")
    if text.get("model_type") != "llama":
        raise ValueError(f"{path}: text_config.model_type is {text.get('model_type')!r}; it is llama")
    counts: dict[str, int] = {}
    for modality in entries:
        one_of(path, "modalities", modality, MODALITIES)
        entry = section_of(path, entries, modality)
        for name, ours in COUNTS.get(modality, {}).items():
            if entry.get(name) is not None:
                counts[ours] = checked(path, f"modalities.{modality}.{name}", entry[name], int)
    sizes = fields(path, "qformer_config", QFormerConfig, section_of(path, raw, "qformer_config"))
    bridge = QFormerConfig(**{**sizes, "use_text": True})
    check_divisible(path, "qformer_config", bridge.hidden_size, bridge.num_attention_heads)
    one_of(path, "qformer_config.hidden_act", bridge.hidden_act, tuple(ACTIVATIONS))
    return XInstructBlipConfig(
        text=llama.read_config(path, text),
        qformer=bridge,
        modalities=tuple(entries),
        vision=_vision(path, raw) if {"image", "video"} & set(entries) else None,
        audio=beats.read_config(path, section_of(path, raw, "audio_config"), "audio_config")
        if "audio" in entries
        else None,
        points=point_bert.read_config(path, section_of(path, raw, "pc_config"), "pc_config")
        if "pc" in entries
        else None,
        num_query_tokens=checked(path, "num_query_tokens", raw.get("num_query_tokens", 32), int),
        prompt=_prompt(path, section_of(path, raw, "prompt")),
        **counts,
    )


def _vision(path: Path, raw: Mapping[str, Any]) -> VitConfig:
    """The image tower, whose last norm belongs to the modality."""
    section = section_of(path, raw, "vision_config")
    vision = VitConfig(**{**fields(path, "vision_config", VitConfig, section), "post_norm": False})
    check_patches(path, "vision_config", vision.image_size, vision.patch_size)
    check_divisible(path, "vision_config", vision.hidden_size, vision.num_attention_heads)
    one_of(path, "vision_config.hidden_act", vision.hidden_act, tuple(ACTIVATIONS))
    return vision


def _prompt(path: Path, section: Mapping[str, Any]) -> Prompt:
    known = {field.name: type(field.default) for field in dataclasses.fields(Prompt)}
    if unknown := section.keys() - known.keys():
        raise ValueError(f"{path}: prompt.{min(unknown)} is unknown; expected one of {', '.join(known)}")
    return Prompt(**{name: checked(path, f"prompt.{name}", x, known[name]) for name, x in section.items()})


def rules(config: XInstructBlipConfig) -> dict[str, Rule]:
    """Path of each parameter -> its rule."""
    table = [*language_models.of(config.text).rules(*LLM)]
    if config.vision is not None:
        table += eva_vit.rules(config.vision, *VIT, stored_grid=config.stored_image_size // config.vision.patch_size)
    if config.audio is not None:
        table += beats.rules(config.audio, *BEATS)
    if config.points is not None:
        table += point_bert.rules(config.points, *POINT_BERT)
    for name in config.modalities:
        table += [
            *norm(f"{name}_norm", f"{name}_ln"),
            *_qformer(config.qformer, name),
            Rule(f"{name}_query_tokens", f"{name}_query_tokens", LEADING),
            *dense(f"{name}_projector", f"{name}_llm_proj"),
        ]
    return {rule.ours: rule for rule in table}


def _qformer(config: QFormerConfig, modality: str) -> list[Rule]:
    """A Q-Former's table, by the original's names: its attention is BERT's."""
    theirs = f"{modality}_Qformer.bert."
    table = qformer.rules(config, f"{modality}_qformer/", theirs, first_norm=f"{theirs}embeddings.LayerNorm")
    return [dataclasses.replace(rule, theirs=to_original(rule.theirs)) for rule in table]


def to_original(name: str) -> str:
    """Hugging Face's name of a Q-Former's tensor -> the original's, keeping everything before "encoder"."""
    return re.sub(r"(\.(?:cross)?attention)\.attention\.", r"\1.self.", name)


def ignored(config: XInstructBlipConfig) -> re.Pattern[str]:
    """Names of extra tensors in files: buffers and aliases of the parts."""
    buffers = f"({'|'.join(config.modalities)}){_BUFFER}"
    unread = point_bert.unread(re.escape(POINT_BERT[1]))
    return re.compile(f"{buffers}|{unread}|{language_models.of(config.text).ignored(LLM[1])}")


def replaced(
    file: Path, tensors: Mapping[str, np.ndarray], directory: Path
) -> tuple[XInstructBlipConfig, dict[str, np.ndarray], list[str]]:
    """See `families.Family.replaced`: one of the original's {modality}_qformer.pth, or several in one.

    Raises ValueError for a file of a linear projection, or of a modality that the directory does not have.
    """
    config = read_config(directory / "config.json")
    if linear := next(filter(LINEAR.fullmatch, tensors), None):
        raise ValueError(
            f"{file}: {linear} is of the paper's linear baseline, which projects a tower's mean without a Q-Former and "
            "is not built here; take one of the files that end in _qformer.pth"
        )
    found = {name.partition("_")[0] for name in tensors} & set(MODALITIES)
    if not found:
        raise ValueError(f"{file}: holds no tensors of {', '.join(MODALITIES)}")
    if missing := sorted(found - set(config.modalities)):
        raise ValueError(
            f"{file}: is of {missing[0]}, and {directory} has {', '.join(config.modalities)}; assemble one that has it"
        )
    original = Original(
        ((f"((?:{'|'.join(found)})_.+)", r"\1"),),
        re.compile(f"({'|'.join(found)})({_BUFFER}|{_HEADS})"),
        tuple(name for modality in found for name in trained_names(modality)),
    )
    return config, *lavis.rename(str(file), tensors, str(directory), wanted(config, rules(config)), original)
