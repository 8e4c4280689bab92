"""InstructBLIP and BLIP-2 before instruction tuning, from parts.

The parts are a BLIP-2 and a BERT (arXiv 2305.06500, section 2.6: initialised from BLIP-2); or a vision tower, a
Q-Former initialised from BERT (arXiv 2301.12597, section 3.1), and a language model with a new projection; or an
InstructBLIP whose language model is replaced.
"""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import qformer_from_bert, vocabulary
from instructblip_jax.convert.assemble import Draft, constant, normal
from instructblip_jax.convert.drafts import blip2_stage1
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.new_rows import SCALE, grow
from instructblip_jax.convert.rule import Shape
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import Lazy, Tensor, stored
from instructblip_jax.files import read_json
from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.processors.image import PREPROCESSOR, PROCESSOR, settings

LM = "language_model."
PLAIN = ("t5", "llama", "opt")
"""model_type of the plain language models that can be used."""
NEW_QFORMER: dict[str, Any] = {}
"""Sizes of a randomly initialised Q-Former; absent ones are Hugging Face's class defaults, those of BERT-base."""
_VOCABULARY_ROWS = re.compile(
    r"language_model\.(shared|lm_head|(encoder|decoder|model|model\.decoder)\.embed_tokens)\.weight"
)
_TEXT_HALF = re.compile(
    r"qformer\.(embeddings\.(word|position)_embeddings\.weight|encoder\.layer\.\d+\.(intermediate|output)\..+)"
)
_NORMS = {"instructblip": "qformer.embeddings.layernorm.", "blip-2": "qformer.layernorm."}
"""model_type -> prefix of the Q-Former's first norm."""
_NAMES = {"instructblip": ("InstructBlip", "instructblip"), "blip-2": ("Blip2", "blip_2")}
"""model_type -> prefix of its class names, prefix of its parts' model_types."""


def draft(model_type: str, parts: Mapping[str, Path], seed: int, queries: int = blip2_stage1.QUERIES) -> Draft:
    """See `families.Family`; ``parts`` is one of the combinations in `convert.ingredients.SYSTEMS`. ``queries``: number
    of query tokens, if they are new.

    The Q-Former's text half is BERT's with a new row for ``[DEC]``. A language model that replaces another one gets a
    new projection, initialised as a torch linear layer: uniform(-1/sqrt(in), 1/sqrt(in)) for weight and bias.
    """
    language, bert = parts.get("language"), parts.get("bert")
    if "model" in parts:
        vision = parts["model"]
        raw, tensors = _whole(vision, model_type)
    elif "blip2" in parts:
        vision = parts["blip2"]
        raw, tensors = _with_text_half(vision, parts["bert"], seed)
    else:
        vision = parts.get("vision") or parts["qformer"]
        raw, tensors = _without_language_model(model_type, vision, parts.get("qformer"), bert, seed)
        raw.setdefault("num_query_tokens", queries)
    text = raw.get("text_config") or {}
    if language is not None:
        text, inner = language_model(language)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(LM)}
        tensors |= inner
        tensors |= _new_projection(tensors, raw, seed)
    family = hf_instructblip.text_family({"text_config": text})
    processor_class = f"{_NAMES[model_type][0]}Processor"
    words = vocabulary.for_language_model(language or vision, family, processor_class)
    grow(tensors, filter(_VOCABULARY_ROWS.fullmatch, list(tensors)), words.size, seed)
    rows = next(tensor.shape[0] for name, tensor in tensors.items() if _VOCABULARY_ROWS.fullmatch(name))
    if language is not None and family == "opt":
        text |= vocabulary.newline_ends(words)
    text |= {"model_type": family, "vocab_size": rows, "pad_token_id": words.id_of("pad_token")}
    vocabularies, sizes = {"": words}, {}
    if hf_instructblip.HAS_TEXT[model_type]:
        pieces, positions = (
            tensors[f"qformer.{name}"].shape[0] for name in (qformer_from_bert.WORDS, qformer_from_bert.POSITIONS)
        )
        vocabularies["qformer_tokenizer"] = (
            vocabulary.for_qformer(bert, pieces - 1)
            if bert is not None
            else vocabulary.Vocabulary(vision / "qformer_tokenizer", processor_class)
        )
        sizes = {"vocab_size": pieces, "max_position_embeddings": positions}
    config = _config(model_type, raw, text, sizes, words.add(vocabulary.IMAGE))
    files = {
        "config.json": config,
        "generation_config.json": _generation_config(text),
        PREPROCESSOR: settings(vision)[2] | {"processor_class": processor_class},
        PROCESSOR: {"num_query_tokens": config["num_query_tokens"], "processor_class": processor_class},
    }
    scale = SCALE if bert is None or "blip2" in parts else qformer_from_bert.initializer_range(bert)
    return Draft(tensors, files, vocabularies, language or vision, lambda name, shape: _draw(name, shape, scale, seed))


def _whole(directory: Path, model_type: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config.json and the tensors of a model of this model_type."""
    path = directory / "config.json"
    found = read_json(path).get("model_type")
    if found != model_type:
        raise ValueError(f"{path}: model_type is {found!r}, not {model_type!r}")
    if blip2_stage1.is_first_stage(directory):
        raise ValueError(
            f"{path}: is of BLIP-2's first stage, which has no language model; give it one first: "
            f"instructblip assemble blip-2 --qformer {directory} --language DIR --out DIR"
        )
    raw, _, tensors = blip2_stage1.read(directory)
    return raw, tensors


def _with_text_half(blip2: Path, bert: Path, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config.json of a BLIP-2, and its tensors by InstructBLIP's names with a text half for its Q-Former."""
    raw, tensors = _whole(blip2, "blip-2")
    tensors = {name.replace(_NORMS["blip-2"], _NORMS["instructblip"]): tensor for name, tensor in tensors.items()}
    if blip2_stage1.is_first_stage(bert):
        return raw, tensors | blip2_stage1.text_half(bert)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return raw, tensors | qformer_from_bert.text_half(bert, shapes, seed=seed)


def _without_language_model(
    model_type: str, vision: Path, qformer: Path | None, bert: Path | None, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The sections of config.json, and the tensors, of the vision tower and of a Q-Former that reads its tokens."""
    source, tower, found = blip2_stage1.read(vision)
    tensors = {name: tensor for name, tensor in found.items() if name.startswith("vision_model.")}
    raw = {"vision_config": source.get("vision_config") or {}}
    width = tower.vision.hidden_size
    section = NEW_QFORMER
    if qformer is not None:
        source, config, found = blip2_stage1.read(qformer)
        if (reads := config.qformer.encoder_hidden_size) != width:
            raise ValueError(
                f"{qformer}: its Q-Former reads image tokens of width {reads}; those of {vision} have {width}"
            )
        tensors |= {
            name.replace(_NORMS["instructblip"], _NORMS["blip-2"]): tensor
            for name, tensor in found.items()
            if name == "query_tokens" or (name.startswith("qformer.") and not _TEXT_HALF.fullmatch(name))
        }
        section = source.get("qformer_config") or {}
        raw["num_query_tokens"] = config.num_query_tokens
    elif bert is not None:
        section = qformer_from_bert.read_config(bert)
        text = hf_instructblip.HAS_TEXT[model_type]
        tensors |= qformer_from_bert.both_halves(bert, section, _NORMS[model_type], text=text, seed=seed)
    return raw | {"qformer_config": section | {"encoder_hidden_size": width}}, tensors


def _draw(name: str, shape: Shape, scale: float, seed: int) -> Lazy | None:
    """New query tokens, and a new Q-Former's tensors that BERT lacks, initialised as in BERT: normal(0, ``scale``)."""
    if not name.startswith(("query_tokens", "qformer.")):
        return None
    if name.endswith(".bias"):
        return constant(shape, 0)
    if "norm" in name.lower():
        return constant(shape, 1)
    return normal(shape, scale, seed, zlib.crc32(name.encode()))


def language_model(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration, as used in InstructBLIP, and the tensors of a plain language model, or of the language model
    in an InstructBLIP or BLIP-2."""
    text = read_json(directory / "config.json")
    if text.get("model_type") in _NAMES:
        raw, tensors = _whole(directory, text["model_type"])
        inner = {name: tensor for name, tensor in tensors.items() if name.startswith(LM)}
        return dict(raw.get("text_config") or {}), inner
    if text.get("model_type") not in PLAIN:
        raise ValueError(
            f"{directory / 'config.json'}: model_type is {text.get('model_type')!r}; "
            f"a language model must be {', '.join(PLAIN)}, or that of {' or '.join(_NAMES)}"
        )
    if text.get("feed_forward_proj") == "gated-gelu":
        text["dense_act_fn"] = "gelu"  # the original replaces FlanT5's own gelu_new
    shards = open_shards(directory)
    return text, {LM + name: stored(shards, name) for name in shards.shapes}


def _new_projection(tensors: dict[str, Tensor], raw: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """A linear layer from the Q-Former's width to that of the language model's embedding, initialised as in torch."""
    width = next(tensor.shape[1] for name, tensor in tensors.items() if _VOCABULARY_ROWS.fullmatch(name))
    inputs = (raw.get("qformer_config") or {}).get("hidden_size") or QFormerConfig.hidden_size
    rng, bound = np.random.default_rng(seed), inputs**-0.5

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return {"language_projection.weight": uniform(width, inputs), "language_projection.bias": uniform(width)}


def _config(
    model_type: str, raw: dict[str, Any], text: dict[str, Any], sizes: dict[str, int], image: int
) -> dict[str, Any]:
    """config.json. ``sizes``: of the Q-Former's text half; ``image``: id of the visual prompt's placeholder."""
    name, prefix = _NAMES[model_type]
    qformer = {key: x for key, x in (raw.get("qformer_config") or {}).items() if key != "use_qformer_text_input"}
    return {
        "architectures": [f"{name}ForConditionalGeneration"],
        "image_token_index": image,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "is_encoder_decoder": text["model_type"] == "t5",
        "model_type": model_type,
        "num_query_tokens": raw.get("num_query_tokens", blip2_stage1.QUERIES),
        "qformer_config": qformer | {"model_type": f"{prefix}_qformer"} | sizes,
        "text_config": text,
        "tie_word_embeddings": text.get("tie_word_embeddings", False),
        "use_decoder_only_language_model": text["model_type"] != "t5",
        "vision_config": (raw.get("vision_config") or {}) | {"model_type": f"{prefix}_vision_model"},
    }


def _generation_config(text: dict[str, Any]) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return {"_from_model_config": True} | {name: text[name] for name in names if text.get(name) is not None}
