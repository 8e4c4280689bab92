"""Small random checkpoints in the public Hugging Face layout, and batches for them. NumPy only.

Every tensor's values depend on its name and a seed alone. Norms, biases, query tokens and position tables are far from
zero and one, where many a porting mistake would not show.
"""

import json
import zlib
from pathlib import Path

import jax
import kosmos_toys
import numpy as np
from safetensors.numpy import save_file

from instructblip_jax import families
from instructblip_jax.convert.assemble import wanted
from instructblip_jax.convert.write import Written

TINY = {
    "num_query_tokens": 6,
    "vision_config": {
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 42,
        "patch_size": 14,
    },
    "qformer_config": {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
    },
    "text_config": {
        "model_type": "t5",
        "vocab_size": 90,
        "d_model": 32,
        "d_kv": 12,
        "d_ff": 80,
        "num_heads": 4,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
}
"""No two sizes agree by accident, and heads * head size is not the width: a forgotten transpose fails by its shape."""

MINI = TINY | {
    "vision_config": TINY["vision_config"] | {"num_hidden_layers": 1},
    "qformer_config": TINY["qformer_config"] | {"num_hidden_layers": 2},
    "text_config": TINY["text_config"] | {"num_layers": 1, "num_decoder_layers": 1},
}
"""The same with as few layers as there can be: its train step compiles in seconds."""


LLAMA = {
    "model_type": "llama",
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TEXT = {
    "t5": TINY["text_config"],
    "llama": LLAMA,
    # nine heads that read three; 9 * 6 is not 36
    "grouped": LLAMA | {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 6},
    "opt": {
        "model_type": "opt",
        "vocab_size": 90,
        "hidden_size": 36,
        "word_embed_proj_dim": 36,
        "ffn_dim": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "max_position_embeddings": 70,
        "eos_token_id": 3,
    },
}
"""Language models by a short name; "grouped" is a LLaMA whose query heads share key heads."""


def config_json(kind: str = "instructblip", sizes: dict = TINY, family: str = "t5", **text) -> dict:
    """A ``config.json`` as public repositories write it, with the language model of ``sizes`` or of ``family`` in
    `TEXT`; ``text`` changes its text_config (None removes a field)."""
    section = sizes["text_config"] if family == "t5" else TEXT[family]
    soft = "video_token_index" if kind == "instructblipvideo" else "image_token_index"
    raw = {"model_type": kind, **sizes, soft: section["vocab_size"] - 2}
    changed = section | text
    raw["text_config"] = {name: value for name, value in changed.items() if value is not None}
    return raw


ALBEF_TEXT = {
    "vocab_size": 30,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "fusion_layer": 1,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "mask_token_id": 4,
}


def albef_json(architecture: str = "AlbefForPreTraining", sizes: dict = TINY, **text) -> dict:
    """A ``config.json`` of ALBEF; ``text`` changes its text_config."""
    return {
        "architectures": [architecture],
        "model_type": "albef",
        "embed_dim": 12,
        "vision_config": sizes["vision_config"],
        "text_config": ALBEF_TEXT | text,
    }


BLIP_TEXT = {name: x for name, x in ALBEF_TEXT.items() if name not in ("fusion_layer", "cls_token_id")} | {
    "vocab_size": 34,
    "bos_token_id": 32,
}


def blip_json(architecture: str, sizes: dict = TINY, **text) -> dict:
    """A ``config.json`` of BLIP, whose tower is as wide as Hugging Face wants it for questions; ``text`` changes its
    text_config."""
    width = {"hidden_size": BLIP_TEXT["hidden_size"]} if "QuestionAnswering" in architecture else {}
    return {
        "architectures": [architecture],
        "model_type": "blip",
        "image_text_hidden_size": 12,
        "vision_config": sizes["vision_config"] | {"layer_norm_eps": 1e-6} | width,
        "text_config": BLIP_TEXT | text,
    }


def llava_json(words: int, sizes: dict = TINY, family: str = "grouped", **fields) -> dict:
    """A ``config.json`` as llava-hf writes it, for a vocabulary whose last two tokens are ``<image>`` and ``<pad>``."""
    text = {name: x for name, x in TEXT[family].items() if not name.endswith("_token_id")}
    return {
        "model_type": "llava",
        "image_token_index": words - 2,
        "pad_token_id": words - 1,
        "projector_hidden_act": "gelu",
        "vision_config": sizes["vision_config"] | {"model_type": "clip_vision_model", "num_hidden_layers": 3},
        "text_config": text | {"vocab_size": -(-words // 64) * 64, "eos_token_id": 2},
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        **fields,
    }


def tensor_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the ``config.json`` in ``directory`` asks for."""
    config = families.read_config(directory)
    return wanted(config, families.family_of(directory).rules(config))


def export(out: Path, source: Path, trained: dict[str, np.ndarray], **options) -> list[Written]:
    """`families.export` of a model at its own settings."""
    return families.export(out, source, families.read_config(source), trained, **options)


def values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 values at scales where activations stay near one and attention and head prefer something."""
    if name == "temp":  # a temperature
        return np.full(shape, 0.1, np.float32)
    z = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
    if name.startswith("text_model."):
        return kosmos_toys.values(z, name)
    if name.endswith(("_gate", "alpha_cross_attn", "alpha_dense")):  # tanh of it is how far a block is open
        return 0.5 + 0.2 * z
    if name.endswith(("running_var", "weight_g")):  # a variance, and the length of a kernel
        return np.exp(np.float32(0.3) * z)
    if ("norm" in name.lower() and name.endswith(".weight")) or name.endswith("gain"):
        return 1 + 0.2 * z
    if name.endswith("running_var"):
        return 0.5 + np.abs(z)
    if len(shape) == 1:
        return 0.2 * z
    if not shape:  # a temperature
        return np.array(0.07, np.float32)
    if name.endswith(("query_tokens", "class_embedding", "position_embedding", "position_embeddings.weight")):
        return 0.6 * z
    if name.endswith(("relative_attention_bias.weight", "shared.weight", "word_embeddings.weight")):
        return z
    if name.endswith("decoder.embed_tokens.weight"):  # OPT's, which is its head as well
        z[3] *= 2.5
        return z * np.float32(0.3)
    if name.endswith("embed_positions.weight"):
        return z * np.float32(0.5)
    if name.endswith("model.embed_tokens.weight"):
        return z
    if name.endswith("lm_head.weight"):
        z[1] *= 2.0  # the end token wins now and then, so that stopping is exercised
        return z * np.float32(2.0 * shape[1] ** -0.5)
    if ".q.weight" in name:  # T5 does not divide its scores by the head size's root
        return z * np.float32(0.35 * shape[1] ** -0.5)
    return z * np.float32(1.1 * np.prod(shape[1:]) ** -0.5)


def write(
    directory: Path, raw: dict, *, seed: int = 0, tied: bool = False, legacy: bool = False, shard_bytes: int = 0
) -> Path:
    """Write ``config.json`` and the weights of a random model.

    ``tied``: no head of its own; ``legacy``: with the buffers and aliases that files of 2023 hold on top;
    ``shard_bytes``: several files and an index, no file larger than this unless one tensor is.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    tensors = {name: values(name, shape, seed) for name, shape in tensor_shapes(directory).items()}
    if tied:
        del tensors["language_model.lm_head.weight"]
    if legacy:
        tensors |= legacy_tensors(tensors, raw)
    if not shard_bytes:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    shards: list[dict[str, np.ndarray]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(x.nbytes for x in shards[-1].values()) + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    weight_map = {}
    for n, shard in enumerate(shards, start=1):
        file = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(x.nbytes for x in tensors.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def legacy_tensors(tensors: dict[str, np.ndarray], raw: dict) -> dict[str, np.ndarray]:
    """Copies of the embedding under old names, buffers, and a table that nothing reads."""
    text = raw["text_config"]
    if text["model_type"] == "t5":
        never_read = "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        extra = {never_read: np.full((32, text["num_heads"]), 9.0, np.float32)}
        for side in ("encoder", "decoder"):
            extra[f"language_model.{side}.embed_tokens.weight"] = tensors["language_model.shared.weight"].copy()
    elif text["model_type"] == "opt":
        extra = {"language_model.lm_head.weight": tensors["language_model.model.decoder.embed_tokens.weight"].copy()}
    else:
        size = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
        buffer = (10000.0 ** (-np.arange(0, size, 2) / size)).astype(np.float32)
        layers = range(text["num_hidden_layers"])
        extra = {f"language_model.model.layers.{n}.self_attn.rotary_emb.inv_freq": buffer.copy() for n in layers}
    if "qformer.embeddings.position_embeddings.weight" in tensors:
        rows = raw["qformer_config"]["max_position_embeddings"]
        extra["qformer.embeddings.position_ids"] = np.arange(rows, dtype=np.int64)[None]
    return extra


def _rows(rng: np.random.Generator, lengths: np.ndarray, high: int, end: int | None = None) -> tuple:
    """Random ids [B, longest], each row of its own length with the rest 0, and the mask."""
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(4, high, mask.shape).astype(np.int32) * mask
    if end is not None:
        ids[np.arange(len(lengths)), lengths - 1] = end
    return ids, mask


def batch(
    raw: dict, *, rows: int = 3, text: int = 9, answer: int = 7, frames: int = 3, seed: int = 0
) -> dict[str, np.ndarray]:
    """A batch with the contract's keys, padded on the right; row lengths differ, the longest ones are as asked.

    ``frames``: of the videos, for a model of videos.
    """
    rng = np.random.default_rng(seed)
    size = raw["vision_config"]["image_size"]

    def lengths(longest: int) -> np.ndarray:
        return np.concatenate([[longest], rng.integers(2, longest + 1, rows - 1)])

    time = (frames,) if raw["model_type"] == "instructblipvideo" else ()
    arrays = {"pixel_values": rng.standard_normal((rows, *time, size, size, 3), np.float32)}
    if raw["model_type"] != "blip-2":
        high = raw["qformer_config"]["vocab_size"]
        arrays["qformer_input_ids"], arrays["qformer_attention_mask"] = _rows(rng, lengths(text + 2), high)
    high = raw["text_config"]["vocab_size"] - 2
    prompt, prompt_mask = _rows(rng, lengths(text), high, end=1)
    ids, mask = _rows(rng, lengths(answer), high, end=raw["text_config"]["eos_token_id"])
    labels = np.where(mask == 1, ids, -100).astype(np.int32)
    if raw["text_config"]["model_type"] == "t5":
        return arrays | {"input_ids": prompt, "attention_mask": prompt_mask, "labels": labels}
    # The response goes on where the instruction ends; padding follows.
    mask, joined = np.concatenate([prompt_mask, mask], axis=1), np.concatenate([prompt, ids], axis=1)
    aligned = np.concatenate([np.full_like(prompt, -100), labels], axis=1)
    order = np.argsort(mask == 0, axis=1, kind="stable")[:, : mask.sum(1).max()]
    moved = (np.take_along_axis(x, order, axis=1) for x in (joined, mask, aligned))
    return arrays | dict(zip(("input_ids", "attention_mask", "labels"), moved, strict=True))


def padded(batch: dict[str, np.ndarray], extra: int) -> dict[str, np.ndarray]:
    """The same batch with ``extra`` more padded columns (random ids under a zero mask) in every sequence."""
    rng = np.random.default_rng(7)
    out = dict(batch)
    for name in batch.keys() - {"pixel_values"}:
        more = np.zeros((len(batch[name]), extra), np.int32)
        if name.endswith("input_ids"):
            more = rng.integers(0, 40, more.shape).astype(np.int32)
        elif name == "labels":
            more -= 100
        out[name] = np.concatenate([batch[name], more], axis=1)
    return out


def rearranged(
    batch: dict[str, np.ndarray], where: str, masks: tuple[str, ...] = ("attention_mask", "qformer_attention_mask")
) -> dict[str, np.ndarray]:
    """The same batch with its padding on the "left", or "inside": spread among the real tokens of each row.

    Labels that are as long as ``input_ids`` belong to its tokens and go along.
    """
    out, rng = dict(batch), np.random.default_rng(5)
    for mask_name in masks:
        if mask_name not in batch:
            continue
        mask, ids = batch[mask_name], mask_name.replace("attention_mask", "input_ids")
        names = [mask_name, ids]
        if ids == "input_ids" and "labels" in batch and batch["labels"].shape == mask.shape:
            names.append("labels")
        order = np.argsort(mask, axis=1, kind="stable")
        if where == "inside":
            for row, real in zip(order, mask.sum(1), strict=True):
                slots = np.sort(rng.permutation(len(row))[:real])
                padding = np.setdiff1d(np.arange(len(row)), slots)
                row[slots], row[padding] = np.arange(real), np.arange(real, len(row))
        out |= {name: np.take_along_axis(batch[name], order, axis=1) for name in names}
    return out


def left_padded(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """See `rearranged`."""
    return rearranged(batch, "left")


def leaves_equal(a: dict, b: dict) -> bool:
    """True if two flat dicts of arrays are equal bit for bit."""
    return a.keys() == b.keys() and all(
        np.array_equal(*(np.atleast_1d(x[k]).view(np.uint8) for x in (a, b))) for k in a
    )


def host(tree: dict) -> dict:
    """Copies of all arrays on the host."""
    return jax.tree.map(np.array, tree)
