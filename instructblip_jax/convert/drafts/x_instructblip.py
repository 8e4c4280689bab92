"""X-InstructBLIP from its parts: a language model, a tower for each modality, and Q-Formers that are new or trained.

Separately trained models with the same language model are combined into one with all of their modalities.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instructblip_jax.convert import qformer_from_bert, vocabulary
from instructblip_jax.convert.assemble import Draft, check_fits, constant, normal, uniform
from instructblip_jax.convert.drafts import blip2_stage1
from instructblip_jax.convert.drafts import instructblip as instructblip_draft
from instructblip_jax.convert.export import kept
from instructblip_jax.convert.layouts import hf_blip2_retrieval
from instructblip_jax.convert.layouts import x_instructblip as layout
from instructblip_jax.convert.layouts.x_instructblip import KIND, LLM, TOWERS, trained_names
from instructblip_jax.convert.new_rows import SCALE, grow
from instructblip_jax.convert.parts import beats, point_bert
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Lazy, Tensor, read, stored
from instructblip_jax.files import read_json
from instructblip_jax.processors.image import PREPROCESSOR, settings
from instructblip_jax.systems.x_instructblip import MODALITIES

PROCESSOR_CLASS = "InstructBlipProcessor"
FRAMES = 5
"""Number of frames of a video (in the original's configurations)."""
READERS = {"audio": beats.read, "pc": point_bert.read}
"""Modality -> the reader of its tower."""
SETTINGS = {"audio": ("rate", "mels", "block", "blocks", "mean", "std"), "pc": ("count",)}
"""Modality -> fields of its entry in config.json that a tower's own config.json may have in addition to its sizes."""
_TABLES = tuple(f"{LLM[1]}{name}.weight" for name in ("model.embed_tokens", "lm_head"))
_NORM = "vision_model.post_layernorm."
_QFORMER = "Qformer.bert."
_WORDS = f"{_QFORMER}{qformer_from_bert.WORDS}"
_FIRST_NORMS = ("qformer.embeddings.layernorm.", f"{hf_blip2_retrieval.FIRST_NORM}.")


class Source(NamedTuple):
    """A modality found in a part.

    Attributes:
      entry: its entry in config.json.
      section: the sizes of its tower.
      tensors: those of the tower, and existing trainable ones.
      qformer: sizes of its Q-Former, None if that is new.
      prompt: the form of its training prompts, None if it was not trained.
      directory: where its image settings and the Q-Former's tokenizer are.
    """

    entry: dict[str, Any]
    section: dict[str, Any]
    tensors: dict[str, Tensor]
    qformer: Mapping[str, Any] | None
    prompt: Mapping[str, Any] | None
    directory: Path


def draft(
    model_type: str,
    parts: Mapping[str, Path],
    seed: int,
    queries: int = blip2_stage1.QUERIES,
    frames: int = FRAMES,
) -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`.

    A modality from an X-InstructBLIP is used as trained. From an InstructBLIP or BLIP-2, norm, queries and Q-Former are
    used, and the projection is new; video is initialised from its images. Audio and point clouds get the queries and
    the Q-Former, without its attention, of ``qformer``, BLIP-2's first stage, or else new ones, and a new norm and
    projection, all as in the original. ``queries``, ``frames``: number of query tokens if all are new, and of frames of
    a video with a new Q-Former.
    """
    language, bert = parts["language"], parts.get("bert")
    sources = {name: _source(name, parts[name], bert, seed, frames) for name in MODALITIES if name in parts}
    if not sources:
        raise ValueError(f"{model_type}: give at least one of {', '.join(f'--{name}' for name in MODALITIES)}")
    text, tensors = _language(language)
    words = vocabulary.for_language_model(language, "llama", PROCESSOR_CLASS, mark=False)
    grow(tensors, [name for name in _TABLES if name in tensors], words.size, seed)
    begun = _of_pictures(parts["qformer"], bert, seed) if "qformer" in parts else None
    for name, source in sources.items():
        _check_same_tower(tensors, source, parts[name])
        tensors |= source.tensors
        if begun is not None and source.qformer is None:
            new = {own: x for own, x in begun.tensors.items() if own.startswith(("query_tokens", _QFORMER))}
            tensors |= {f"{name}_{own}": x for own, x in new.items() if "attention" not in own}
    sizes = _sizes(parts, sources, begun)
    tables = [f"{name}_{_WORDS}" for name in sources]
    rows = next((tensors[table].shape[0] for table in tables if table in tensors), 0)
    pieces = _qformer_words(parts, sources, rows)
    stored_queries = (tensors[f"{name}_query_tokens"].shape[1] for name in sources if f"{name}_query_tokens" in tensors)
    pictures = next((sources[name].directory for name in ("image", "video") if name in sources), None)
    config = {
        "architectures": ["XInstructBlipForConditionalGeneration"],
        "model_type": KIND,
        "modalities": {name: source.entry for name, source in sources.items()},
        "num_query_tokens": next(stored_queries, queries),
        "prompt": _prompt(parts, sources),
        "qformer_config": {**sizes, "vocab_size": rows or pieces.size},
        "text_config": {
            **text,
            "model_type": "llama",
            "vocab_size": tensors[_TABLES[0]].shape[0],
            "pad_token_id": words.id_of("pad_token"),
        },
        **{f"{TOWERS[name][0]}_config": source.section for name, source in sources.items()},
    }
    files = {"config.json": config} | ({PREPROCESSOR: settings(pictures)[2]} if pictures else {})
    width = sizes.get("hidden_size", qformer_from_bert.QFormerConfig.hidden_size)
    vocabularies = {"": words, "qformer_tokenizer": pieces}
    return Draft(tensors, files, vocabularies, language, lambda name, shape: _draw(name, shape, width, seed))


def _source(modality: str, path: Path, bert: Path | None, seed: int, frames: int) -> Source:
    raw = read_json(path / "config.json") if path.is_dir() else {}
    if raw.get("model_type") == KIND:
        return _trained(modality, path, raw, frames)
    if modality in READERS:
        section, tower = READERS[modality](path)
        entry = {name: raw[name] for name in SETTINGS[modality] if name in raw}
        return Source(entry, section, {TOWERS[modality][1] + name: x for name, x in tower.items()}, None, None, path)
    found = _of_pictures(path, bert, seed)
    if not any(name == _WORDS for name in found.tensors):
        raise ValueError(
            f"{path}: its Q-Former reads no text (BLIP-2's second stage); give --bert, or a model of the first stage"
        )
    tensors = {
        name if name.startswith("vision_model.") else f"{modality}_{name}": x for name, x in found.tensors.items()
    }
    return found._replace(entry={"frames": frames} if modality == "video" else {}, tensors=tensors)


def _trained(modality: str, path: Path, raw: Mapping[str, Any], frames: int) -> Source:
    """A modality of an X-InstructBLIP; its video may be initialised from its images."""
    config, shards = layout.read_config(path / "config.json"), open_shards(path)
    rules, ignored = layout.rules(config), layout.ignored(config)
    check_fits(config, rules, shards, ignored)
    like = "image" if modality == "video" and "video" not in raw["modalities"] else modality
    if like not in raw["modalities"]:
        raise ValueError(f"{path}: has no {modality}; it reads {', '.join(raw['modalities'])}")
    section, tower = TOWERS[modality]
    tensors: dict[str, Tensor] = {}
    for name in kept(rules, ignored, shards.shapes):
        if name.startswith(trained_names(like)):
            tensors[modality + name.removeprefix(like)] = stored(shards, name)
        elif name.startswith(tower):
            tensors[name] = stored(shards, name)
    entry = dict(raw["modalities"][like]) if like == modality else {"frames": frames}
    return Source(
        entry,
        raw.get(f"{section}_config") or {},
        tensors,
        raw.get("qformer_config") or {},
        raw.get("prompt") or {},
        path,
    )


def _of_pictures(path: Path, bert: Path | None, seed: int) -> Source:
    """Tower, norm, queries and Q-Former of an InstructBLIP or a BLIP-2 of either stage, with trainable tensors named
    without a modality prefix. A Q-Former without a text half gets that of ``bert``, if given."""
    raw, _, tensors = blip2_stage1.read(path)
    if bert is not None and not any(name.endswith(qformer_from_bert.WORDS) for name in tensors):
        if blip2_stage1.is_first_stage(bert):
            tensors |= blip2_stage1.text_half(bert)
        else:
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            tensors |= qformer_from_bert.text_half(bert, shapes, seed=seed)
    named = {new: x for name, x in tensors.items() if (new := _name(name)) is not None}
    section = {name: x for name, x in (raw.get("vision_config") or {}).items() if name != "model_type"}
    return Source({}, section, named, raw.get("qformer_config") or {}, None, path)


def _name(name: str) -> str | None:
    """Hugging Face's name of a tensor -> the original's, without the modality prefix; None for unused tensors."""
    for beginning, new in (
        *((norm, f"{_QFORMER}embeddings.LayerNorm.") for norm in _FIRST_NORMS),
        (_NORM, "ln."),
        (f"qformer.{hf_blip2_retrieval.EMBEDDINGS}", f"{_QFORMER}embeddings."),
        (hf_blip2_retrieval.EMBEDDINGS, f"{_QFORMER}embeddings."),
        ("qformer.", _QFORMER),
        ("vision_model.", "vision_model."),
        ("query_tokens", "query_tokens"),
    ):
        if name.startswith(beginning):
            return layout.to_original(new + name.removeprefix(beginning))
    return None


def _language(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a LLaMA: a plain one, or that in an InstructBLIP or X-InstructBLIP."""
    raw = read_json(directory / "config.json")
    if raw.get("model_type") == KIND:
        shards = open_shards(directory)
        inner = {name: stored(shards, name) for name in shards.shapes if name.startswith(LLM[1])}
        return dict(raw.get("text_config") or {}), dict(inner)
    text, tensors = instructblip_draft.language_model(directory)
    if text.get("model_type") != "llama":
        raise ValueError(f"{directory / 'config.json'}: the language model is {text.get('model_type')!r}; it is llama")
    return text, tensors


def _check_same_tower(tensors: Mapping[str, Tensor], source: Source, path: Path) -> None:
    """Images and video share a tower. Raises ValueError if they have different ones."""
    name = "vision_model.embeddings.class_embedding"
    if not {name} <= tensors.keys() & source.tensors.keys():
        return
    if not np.array_equal(read(tensors[name]), read(source.tensors[name])):
        raise ValueError(f"{path}: its tower is not that of --image; images and video must share one")


def _sizes(parts: Mapping[str, Path], sources: Mapping[str, Source], begun: Source | None) -> dict[str, Any]:
    """The sizes of all Q-Formers. Raises ValueError if existing ones differ."""
    found = {
        f"--{name} {parts[name]}": source.qformer for name, source in sources.items() if source.qformer is not None
    }
    found |= {f"--qformer {parts['qformer']}": begun.qformer} if begun is not None and begun.qformer is not None else {}
    if not found:
        bert = parts.get("bert")
        return qformer_from_bert.read_config(bert) if bert and not blip2_stage1.is_first_stage(bert) else {}
    default = qformer_from_bert.QFormerConfig()
    sizes = {
        where: {name: section.get(name, getattr(default, name)) for name in qformer_from_bert.SIZES}
        for where, section in found.items()
    }
    (first, wanted), *others = sizes.items()
    for where, own in others:
        if wrong := next((name for name in own if own[name] != wanted[name]), None):
            raise ValueError(f"{where}: its Q-Former's {wrong} is {own[wrong]}; that of {first} is {wanted[wrong]}")
    return wanted


def _prompt(parts: Mapping[str, Path], sources: Mapping[str, Source]) -> Mapping[str, Any]:
    """The prompt form of all trained modalities. Raises ValueError if they differ."""
    found = [(parts[name], source.prompt) for name, source in sources.items() if source.prompt is not None]
    for path, prompt in found:
        first, wanted = found[0]
        if prompt != wanted:
            raise ValueError(f"{path}: config.json's prompt is {prompt}, that of {first} is {wanted}; make them agree")
    return found[0][1] if found else {}


def _qformer_words(parts: Mapping[str, Path], sources: Mapping[str, Source], rows: int) -> vocabulary.Vocabulary:
    """The Q-Formers' tokenizer, for tables with ``rows`` rows; 0 if they are new."""
    folders = [source.directory / "qformer_tokenizer" for source in sources.values() if source.qformer is not None]
    if folder := next(filter(Path.is_dir, folders), None):
        return vocabulary.Vocabulary(folder, PROCESSOR_CLASS)
    given = [parts[name] for name in ("bert", "qformer") if name in parts]
    given += [source.directory for source in sources.values() if source.qformer is not None]
    if not given:
        raise ValueError("give --bert: no part has a tokenizer for the Q-Formers")
    return vocabulary.for_qformer(given[0], rows - 1 if rows else vocabulary.Vocabulary(given[0], "").size)


def _draw(name: str, shape: Shape, width: int, seed: int) -> Lazy | None:
    """Initial values as in torch and BERT: uniform(-1 / sqrt(in), 1 / sqrt(in)) for a projection from
    ``width``, 1 and 0 for norms, 0 for other biases, and normal(0, 0.02) for queries, matrices and tables."""
    if not name.startswith(tuple(own for modality in MODALITIES for own in trained_names(modality))):
        return None
    number = zlib.crc32(name.encode())
    if "_llm_proj." in name:
        return uniform(shape, seed, number, bound=width**-0.5)
    if name.endswith(".bias"):
        return constant(shape, 0)
    if "LayerNorm" in name or "_ln." in name:
        return constant(shape, 1)
    return normal(shape, SCALE, seed, number)
