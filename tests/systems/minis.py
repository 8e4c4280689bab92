"""Small configurations of every system, as directories that can be loaded: what the laws are tried on."""

import json
import shutil
from pathlib import Path

import checkpoints
import flamingo_files
import frozen_toys
import kosmos_toys
import toys
import x_toys
from safetensors.numpy import save_file

FORMS = {"blip": "BlipForPreTraining", "blip-captioning": "BlipForConditionalGeneration"}
"""Names of BLIP's forms here -> those in config.json."""
MINIS = (
    "instructblip",
    "instructblipvideo",
    "blip-2",
    "llava",
    "flamingo",
    "idefics",
    "frozen",
    "kosmos-1",
    "x-instructblip",
    "tenth",
    "blip-2-stage-1",
    "albef",
    *FORMS,
)
"""model_type of each, or a name of a form of one; their language model is T5 unless `LANGUAGE` names another."""
LONG = ("instructblipvideo", "idefics", "x-instructblip")
"""Those whose code is another's, as a Q-Former a modality is InstructBLIP's: CI leaves them out."""
PAIRS = ("blip-2-stage-1", "albef", "blip")
"""Those that compare."""
BERT = (*PAIRS, "blip-captioning")
"""Those that read BERT's tokens alone."""
OPTIONS: dict[str, dict] = {
    "blip-2-stage-1": {"label_smoothing": 0.0},
    "albef": {"queue_size": 12},
    "blip": {"queue_size": 12},
}
"""Options with which a system's loss is the plain likelihood of its decoder, and a small queue."""
SILENT = ("albef", "blip")
"""Those that write no text."""
WRITING = {"blip-2-stage-1": "itg"}
"""The loss term of what is written, where it is not "lm"."""
KINDS = {"instructblipvideo": ("frame",) * 2, "x-instructblip": ("image", "points")}
"""The media of each row, where it is not one picture."""
LANGUAGE = {"instructblipvideo": "llama", "blip-2": "opt", "llava": "grouped"}
SEEING = {"flamingo": flamingo_files.flamingo_json, "idefics": flamingo_files.idefics_json}
"""Those whose language model looks at pictures from inside; they have tokenizers of their own."""


def config_json(kind: str, words: int, qformer_words: int) -> dict:
    """``config.json`` with as few layers as there can be."""
    family = LANGUAGE.get(kind, "t5")
    raw = checkpoints.config_json(kind, sizes=checkpoints.MINI, family=family, vocab_size=words + 1)
    if kind == "llava":
        return checkpoints.llava_json(words, sizes=checkpoints.MINI)
    if kind in SEEING:
        return SEEING[kind](words, sizes=checkpoints.MINI)
    if kind == "frozen":
        raw = frozen_toys.config_json(words)
        raw["vision_config"] |= {"depths": [1, 1], "image_size": checkpoints.MINI["vision_config"]["image_size"]}
        return raw
    if kind == "kosmos-1":
        return kosmos_toys.config_json(words, checkpoints.MINI, layers=1)
    if kind == "x-instructblip":
        return x_toys.config_json(words, qformer_words, modalities=("image", "pc"))
    if kind == "albef":
        return checkpoints.albef_json(sizes=checkpoints.MINI, num_hidden_layers=2, vocab_size=qformer_words)
    if kind in FORMS:
        sizes = {"num_hidden_layers": 1, "vocab_size": qformer_words + 2, "bos_token_id": qformer_words}
        return checkpoints.blip_json(FORMS[kind], checkpoints.MINI, **sizes)
    if kind == "blip-2-stage-1":
        raw |= {"model_type": "blip-2", "architectures": ["Blip2ForImageTextRetrieval"], "pretraining": True}
        raw |= {"image_text_hidden_size": 20, "qformer_config": raw["qformer_config"] | {"sep_token_id": 3}}
        raw["qformer_config"]["use_qformer_text_input"] = True  # for transformers
        del raw["image_token_index"]
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    raw["qformer_config"] = raw["qformer_config"] | {"vocab_size": max(qformer_words, 1)} | rates
    return raw


def write(directory: Path, kind: str, seed: int = 3) -> Path:
    """A whole model directory: configuration, tokenizers, image settings, random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    toys.write_processor(directory)
    own = (*toys.WITH_IMAGES, "x-instructblip")
    words, qformer_words = toys.write_tokenizers(directory, kind if kind in own else "instructblip")
    if kind in BERT:
        shutil.copytree(directory / "qformer_tokenizer", directory, dirs_exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_json(kind, words, qformer_words)), encoding="utf-8")
    settings = json.loads((directory / "preprocessor_config.json").read_text())
    side = checkpoints.MINI["vision_config"]["image_size"]
    settings["size"] = {"height": side, "width": side}
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (directory / name).write_text(json.dumps(settings), encoding="utf-8")
    tensors = {name: checkpoints.values(name, x, seed) for name, x in checkpoints.tensor_shapes(directory).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
