"""BLIP-2 -> InstructBLIP before instruction tuning (arXiv 2305.06500, section 2.6: initialised from BLIP-2).

From BLIP-2: vision tower, query tokens, the Q-Former's query half and attention, projection, language model. From BERT:
the Q-Former's text half. Instead of BLIP-2's, another language model may be given; its projection then begins anew.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.convert import qformer_from_bert, vocabulary
from instructblip_jax.convert.export import kept
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.load import check
from instructblip_jax.convert.new_directory import check_free, new_directory
from instructblip_jax.convert.new_rows import with_rows
from instructblip_jax.convert.shards import Shards, open_shards
from instructblip_jax.convert.write import CODES, MAX_SHARD_BYTES, Tensor, Written, stored, write_shards
from instructblip_jax.files import read_json
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.processors.image import PREPROCESSOR, PROCESSOR, settings
from instructblip_jax.systems.build import abstract
from instructblip_jax.systems.instructblip import InstructBlipConfig

LM = "language_model."
FAMILIES = ("t5", "llama")
"""Language models that may be given in place of BLIP-2's."""
_VOCABULARY_ROWS = re.compile(
    r"language_model\.(shared|lm_head|(encoder|decoder|model|model\.decoder)\.embed_tokens)\.weight"
)
ROWS_MULTIPLE = 64
"""What a table that has to grow is filled up to, as the public repositories did."""


def from_blip2(
    out: str | Path,
    blip2: Path,
    bert_model: Path,
    language_model: Path | None = None,
    *,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Written]:
    """Write ``out``, whole or not at all: an InstructBLIP directory in the public layout, to be tuned.

    Args:
      out: a directory that is not there yet, or empty.
      blip2: a BLIP-2 directory.
      bert_model: a BERT directory of the Q-Former's size (bert-base-uncased), with its tokenizer.
      language_model: None, or a plain T5 or LLaMA directory. Its projection is that of a new torch linear layer,
        uniform(-1/sqrt(in), 1/sqrt(in)) for weight and bias, which the original leaves it at.
      seed: of all that is random: that projection, and rows of new tokens.
      max_shard_bytes: size of a weight file at most, unless one tensor is larger.

    Returns the weight files. Raises FileNotFoundError, ValueError or OSError naming the directory and what is wrong.
    """
    out = Path(out)
    check_free(out, *filter(None, (blip2, bert_model, language_model)))
    raw = read_json(blip2 / "config.json")
    if raw.get("model_type") != "blip-2":
        raise ValueError(f"{blip2 / 'config.json'}: model_type is {raw.get('model_type')!r}, not 'blip-2'")
    config = hf_instructblip.read_config(blip2 / "config.json")
    shards = open_shards(blip2)
    _check(config, shards)
    text = raw.get("text_config") or {}
    tensors: dict[str, Tensor] = {
        name.replace("qformer.layernorm.", "qformer.embeddings.layernorm."): stored(shards, name)
        for name in kept(hf_instructblip.rules(config), shards.shapes)
    }
    tensors |= qformer_from_bert.text_half(bert_model, shards.shapes, seed=seed)
    if language_model is not None:
        text = _text_config(language_model)
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(LM)}
        plain = open_shards(language_model)
        tensors |= {LM + name: stored(plain, name) for name in plain.shapes}
        tensors |= _new_projection(tensors, seed)
    family = hf_instructblip.text_family({"text_config": text})
    words = vocabulary.for_language_model(language_model or blip2, family)
    _grow(tensors, words.size, seed)
    rows = next(tensor.shape[0] for name, tensor in tensors.items() if _VOCABULARY_ROWS.fullmatch(name))
    text |= {"model_type": family, "vocab_size": rows, "pad_token_id": words.id_of("pad_token")}
    pieces, positions = (
        tensors[f"qformer.{name}"].shape[0] for name in (qformer_from_bert.WORDS, qformer_from_bert.POSITIONS)
    )
    qformer_words = vocabulary.for_qformer(bert_model, pieces - 1)
    written_config = _config(raw, text, pieces, positions, words.add(vocabulary.IMAGE))
    preprocessor = settings(blip2)[2] | {"processor_class": "InstructBlipProcessor"}

    with new_directory(out, sum(tensor.nbytes for tensor in tensors.values())) as directory:
        _write_json(directory / "config.json", written_config)
        _write_json(directory / "generation_config.json", _generation_config(text))
        _write_json(directory / PREPROCESSOR, preprocessor)
        processor = {"num_query_tokens": written_config["num_query_tokens"], "processor_class": "InstructBlipProcessor"}
        _write_json(directory / PROCESSOR, processor)
        words.write(directory)
        qformer_words.write(directory / "qformer_tokenizer")
        # What it was made of is whole; what may still not fit is the other language model.
        source = language_model or blip2
        try:
            result = hf_instructblip.read_config(directory / "config.json")
        except ValueError as error:
            raise ValueError(str(error).replace(str(directory), str(source))) from error
        names = kept(hf_instructblip.rules(result), tensors)
        shapes = {name: tensors[name].shape for name in names}
        _check(result, Shards(source, {}, shapes, {name: CODES[tensors[name].dtype] for name in names}))
        return write_shards(directory, ((name, tensors[name]) for name in names), max_shard_bytes)


def _check(config: InstructBlipConfig, shards: Shards) -> None:
    """Raise one ValueError for all tensors that do not fit the configuration."""
    _, train, frozen = abstract(config, mesh=single_device_mesh(), dtype="float32", trainable="qformer")
    check(hf_instructblip.rules(config), train | frozen, shards)


def _text_config(directory: Path) -> dict[str, Any]:
    """The configuration of a plain language model, as InstructBLIP uses it."""
    text = read_json(directory / "config.json")
    if text.get("model_type") not in FAMILIES:
        raise ValueError(
            f"{directory / 'config.json'}: model_type is {text.get('model_type')!r}; "
            f"a language model to put in is {' or '.join(FAMILIES)}"
        )
    if text.get("feed_forward_proj") == "gated-gelu":
        text["dense_act_fn"] = "gelu"  # the original replaces FlanT5's own gelu_new
    return text


def _new_projection(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A linear layer [in] -> [D] as torch begins one, D being the width of the language model's embedding."""
    inputs = tensors["query_tokens"].shape[-1]
    width = next(tensor.shape[1] for name, tensor in tensors.items() if _VOCABULARY_ROWS.fullmatch(name))
    rng, bound = np.random.default_rng(seed), inputs**-0.5

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return {"language_projection.weight": uniform(width, inputs), "language_projection.bias": uniform(width)}


def _grow(tensors: dict[str, Tensor], size: int, seed: int) -> None:
    """Give the language model's embedding and head rows for ``size`` tokens where they have fewer."""
    rows = -(-size // ROWS_MULTIPLE) * ROWS_MULTIPLE
    for name, tensor in tensors.items():
        if _VOCABULARY_ROWS.fullmatch(name) and tensor.shape[0] < size:
            tensors[name] = with_rows(tensor, rows, seed)


def _config(raw: dict[str, Any], text: dict[str, Any], pieces: int, positions: int, image: int) -> dict[str, Any]:
    qformer = {
        key: value for key, value in (raw.get("qformer_config") or {}).items() if key != "use_qformer_text_input"
    }
    qformer |= {"model_type": "instructblip_qformer", "vocab_size": pieces, "max_position_embeddings": positions}
    return {
        "architectures": ["InstructBlipForConditionalGeneration"],
        "image_token_index": image,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "is_encoder_decoder": text["model_type"] == "t5",
        "model_type": "instructblip",
        "num_query_tokens": raw.get("num_query_tokens", 32),
        "qformer_config": qformer,
        "text_config": text,
        "tie_word_embeddings": text.get("tie_word_embeddings", False),
        "use_decoder_only_language_model": text["model_type"] != "t5",
        "vision_config": (raw.get("vision_config") or {}) | {"model_type": "instructblip_vision_model"},
    }


def _generation_config(text: dict[str, Any]) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return {"_from_model_config": True} | {name: text[name] for name in names if text.get(name) is not None}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
