"""The golden checkpoints as the tests of generation use them: loaded once, and random prompts for them."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

import instructblip_jax as ib

GOLDENS = Path(__file__).parents[1] / "goldens"
FAMILIES = ("instructblip", "blip2", "llama", "opt", "video")
WITH_TOKENIZER = ("instructblip", "llama", "opt")
FRAMES = 4  # what the reference takes


@functools.cache
def directory(family: str) -> Path:
    """The model directory; "video" has the weights of "llama"."""
    if family != "video":
        return GOLDENS / family
    path = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, path)
    for source in ("llama", "video"):
        shutil.copytree(GOLDENS / source, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.npz"))
    return path


@functools.cache
def model(family: str, **options) -> ib.InstructBlip:
    return ib.InstructBlip.from_pretrained(directory(family), dtype="float32", **options)


@functools.cache
def raw(family: str) -> dict:
    return json.loads((directory(family) / "config.json").read_text())


def prompts(family: str, seed: int, rows: int = 4, text: int = 9) -> dict[str, np.ndarray]:
    """A batch without labels: random pixels and ids, rows of different lengths, padded as Hugging Face pads (a
    decoder-only model's text on the left)."""
    rng = np.random.default_rng(seed)
    config = raw(family)
    side, words = config["vision_config"]["image_size"], config["text_config"]["vocab_size"]
    lengths = np.concatenate([[text], rng.integers(2, text + 1, rows - 1)])
    right = (np.arange(text) < lengths[:, None]).astype(np.int32)
    mask = right[:, ::-1].copy() if model(family).config.decoder_only else right
    pad = config["text_config"].get("pad_token_id", 1)
    batch = {
        "pixel_values": rng.standard_normal(
            (rows, *([FRAMES] if family == "video" else []), side, side, 3), np.float32
        ),
        "input_ids": np.where(mask, rng.integers(6, words // 2, mask.shape), pad).astype(np.int32),
        "attention_mask": mask,
    }
    if config["model_type"] != "blip-2":
        words = config["qformer_config"]["vocab_size"]
        batch["qformer_input_ids"] = np.where(right, rng.integers(6, words, right.shape), 0).astype(np.int32)
        batch["qformer_attention_mask"] = right
    return batch


def endless(family: str, batch: dict[str, np.ndarray], **options) -> np.ndarray:
    """Answers that nothing ends: the end token is one that these models never write."""
    never = model(family).config.text.vocab_size - 5
    ids = ib.generate_ids(model(family), batch, eos_token_id=never, **options)
    assert not (ids == never).any()
    return ids


def until(row: np.ndarray, end: int) -> list[int]:
    """A row's ids up to and with its end token; what follows is filling, of which there are two kinds over there."""
    ends = np.flatnonzero(row == end)
    return row[: ends[0] + 1].tolist() if len(ends) else row.tolist()
