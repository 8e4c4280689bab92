"""Make the digits world's models: python tools/digits_towers.py [digits] [digits_llama] [digits_clip] [digits_bert]
[digits_context] [digits_senses] [digits_senses_bert]

"digits" is an InstructBLIP directory: two frozen towers (`digits_vit.py`, `digits_t5.py`), and an untrained Q-Former
and projection between them; it takes an hour on two cores. "digits_llama" is a plain LLaMA (`digits_llama.py`),
"digits_clip" a CLIP vision model that starts from the vision tower of "digits"; about half an hour. "digits_bert"
is a plain, untrained BERT. "digits_context" is a smaller LLaMA (`digits_context.py`) that takes names from its context,
and "digits_senses" another one (`digits_senses_llama.py`) that compares things after cue words; a quarter of an hour
each. "digits_senses_bert" is a small, untrained BERT over the latter's words. Towers that an earlier run left in
--cache are not trained again.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import digits_context
import digits_llama
import digits_senses_llama
import digits_t5
import digits_text
import digits_vit
import jax.numpy as jnp
import numpy as np
from digits_tokenizers import write_bert, write_llama, write_qformer, write_t5
from flax import nnx
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.convert.parts import bert, clip_vit, llama
from instructblip_jax.convert.rule import Rule
from instructblip_jax.convert.write import write_shards
from instructblip_jax.models.language.bert import BertConfig, BertEmbeddings, BertStack, LmHead
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.processors.image import CLIP_MEAN, CLIP_STD
from instructblip_jax.systems.build import flatten
from instructblip_jax.systems.instructblip import InstructBlipSystem

IMAGE, PATCH, WIDTH = 48, 8, 96
PICTURES: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "rescale_factor": 1 / 255,
    "resample": 3,
}
"""Image settings of preprocessor_config.json, without the size."""


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Images as bytes -> the towers' pixels."""
    scaled = np.asarray(pixels, np.float32) * np.float32(PICTURES["rescale_factor"])
    return (scaled - np.asarray(CLIP_MEAN, np.float32)) / np.asarray(CLIP_STD, np.float32)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file in the format of the shipped ones."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_configs(out: Path, words: int, qformer_words: int, image_token: int) -> None:
    """Write config.json and the accompanying files, in the public format."""
    vision = {
        "model_type": "instructblip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE,
        "patch_size": PATCH,
    }
    qformer = {
        "model_type": "instructblip_qformer",
        "vocab_size": qformer_words,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,  # no example is seen often enough to be memorized
        "attention_probs_dropout_prob": 0.0,
    }
    text = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": -(-words // 64) * 64,
        "d_model": WIDTH,
        "d_kv": 24,
        "d_ff": 256,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    processor = "InstructBlipProcessor"
    contents: dict[str, dict[str, Any]] = {
        "config.json": {
            "model_type": "instructblip",
            "architectures": ["InstructBlipForConditionalGeneration"],
            "num_query_tokens": digits_text.SLOTS,
            "image_token_index": image_token,
            "is_encoder_decoder": True,
            "tie_word_embeddings": False,
            "use_decoder_only_language_model": False,
            "vision_config": vision,
            "qformer_config": qformer,
            "text_config": text,
        },
        "preprocessor_config.json": {
            **PICTURES,
            "image_processor_type": "BlipImageProcessor",
            "processor_class": processor,
            "size": {"height": IMAGE, "width": IMAGE},
        },
        "processor_config.json": {"num_query_tokens": digits_text.SLOTS, "processor_class": processor},
        "generation_config.json": {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    }
    for name, content in contents.items():
        write_json(out / name, content)


def write_llama_config(out: Path, config: LlamaConfig) -> None:
    """Write a plain LLaMA's config.json and generation_config.json, in the public format."""
    ids = {"bos_token_id": digits_llama.BEGIN, "eos_token_id": digits_llama.END}
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    write_json(
        out / "config.json",
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": config.hidden_act,
            "max_position_embeddings": 2048,
            "head_dim": config.head_dim,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": False,
            **{name: getattr(config, name) for name in sizes},
            **ids,
        },
    )
    write_json(out / "generation_config.json", ids)


def write_clip_config(out: Path, config: VitConfig) -> None:
    """Write the config.json of a CLIP vision model and its image settings, in the public format."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    write_json(
        out / "config.json",
        {
            "model_type": "clip_vision_model",
            "architectures": ["CLIPVisionModel"],
            "hidden_act": config.hidden_act,
            "layer_norm_eps": config.layer_norm_eps,
            "projection_dim": config.hidden_size,
            **{name: getattr(config, name) for name in names},
        },
    )
    side = config.image_size
    write_json(
        out / "preprocessor_config.json",
        {
            **PICTURES,
            "image_processor_type": "CLIPImageProcessor",
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "size": {"shortest_edge": side},
        },
    )


def write_bert_config(out: Path, config: BertConfig) -> None:
    """Write a plain BERT's config.json, in the public format."""
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    others = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings")
    write_json(
        out / "config.json",
        {
            "model_type": "bert",
            "architectures": ["BertForMaskedLM"],
            "initializer_range": config.hidden_size
            ** -0.5,  # the initialisation of `linear`; the usual 0.02 is small for this width
            "layer_norm_eps": config.layer_norm_eps,
            "pad_token_id": 0,
            "type_vocab_size": 2,
            **{name: getattr(config, name) for name in (*sizes, *others)},
        },
    )


def cached(path: Path, make: Callable[[], dict]) -> dict[str, np.ndarray]:
    """Load the parameters that an earlier run stored at ``path``, or make and store them."""
    if path.exists():
        return load_file(path)
    arrays = {name: np.asarray(value) for name, value in flatten(nnx.State(make())).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path)
    return arrays


def write_weights(out: Path, rules: Mapping[str, Rule], arrays: Mapping[str, np.ndarray]) -> None:
    """Write model.safetensors in bfloat16."""
    stored = {path: jnp.asarray(value, jnp.bfloat16) for path, value in arrays.items()}
    write_shards(out, save.tensors(rules, stored), max_bytes=5 * 10**9)
    print(f"wrote {out}: {sum(x.size for x in stored.values()):,} parameters")


def make_digits(out: Path, cache: Path) -> None:
    """InstructBLIP: the first vision tower and T5, and between them what tuning begins with."""
    tokenizer = write_t5(out)
    qformer_tokenizer = write_qformer(out / "qformer_tokenizer")
    write_configs(out, tokenizer.get_vocab_size(), qformer_tokenizer.get_vocab_size(), tokenizer.token_to_id("<image>"))
    config = hf_instructblip.read_config(out / "config.json")
    towers = {
        "vit": cached(cache / "vit.safetensors", lambda: digits_vit.train(config.vision, normalize, 5000)["vit"]),
        "llm": cached(cache / "llm.safetensors", lambda: digits_t5.train(config.text, tokenizer, 7100)),
    }
    _, state = nnx.split(InstructBlipSystem(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    arrays = {path: np.asarray(variable[...]) for path, variable in flatten(state).items()}
    for name, tower in towers.items():
        for path, value in tower.items():
            assert arrays[f"{name}/{path}"].shape == value.shape
            arrays[f"{name}/{path}"] = value
    write_weights(out, hf_instructblip.rules(config), arrays)


def make_llama(out: Path, cache: Path) -> None:
    """A plain LLaMA."""
    tokenizer = write_llama(out)
    config = LlamaConfig(
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64,
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        head_dim=32,
        rms_norm_eps=1e-5,
        rope_theta=1e6,  # most of a head's few dimensions then distinguish words, not positions
    )
    write_llama_config(out, config)
    arrays = cached(cache / "llama.safetensors", lambda: digits_llama.train(config, tokenizer, 4400))
    write_weights(out, {rule.ours: rule for rule in llama.rules("", "")}, arrays)


def small_llama(tokenizer: Tokenizer) -> LlamaConfig:
    """The sizes of the smaller LLaMAs."""
    return LlamaConfig(
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=32,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
    )


def make_context(out: Path, cache: Path) -> None:
    """A plain LLaMA that takes names from its context."""
    tokenizer = write_llama(out, digits_context.WORDS)
    config = small_llama(tokenizer)
    write_llama_config(out, config)
    arrays = cached(cache / "context.safetensors", lambda: digits_context.train(config, tokenizer, 4800, seed=1))
    write_weights(out, {rule.ours: rule for rule in llama.rules("", "")}, arrays)


def make_senses(out: Path, cache: Path) -> None:
    """A plain LLaMA that compares the things after cue words."""
    tokenizer = write_llama(out, digits_senses_llama.WORDS)
    config = small_llama(tokenizer)
    write_llama_config(out, config)
    arrays = cached(cache / "senses.safetensors", lambda: digits_senses_llama.train(config, tokenizer, 4000))
    write_weights(out, {rule.ours: rule for rule in llama.rules("", "")}, arrays)


def make_clip(out: Path, cache: Path) -> None:
    """A CLIP vision model, which starts from the vision tower of "digits" in the same directory."""
    first = ib.from_pretrained(out.parent / "digits", dtype="float32")
    arrays = {path: jnp.asarray(x) for path, x in {**first.train, **first.frozen}.items()}
    eva = unflatten_dict(arrays, sep="/")["vit"]
    config = digits_vit.clip_config(first.config.vision)
    write_clip_config(out, config)
    arrays = cached(cache / "clip.safetensors", lambda: digits_vit.train_clip(eva, first.config.vision, normalize, 600))
    write_weights(out, {rule.ours: rule for rule in clip_vit.rules(config, "", "vision_model.")}, arrays)


def make_bert(out: Path, cache: Path) -> None:
    """A plain, untrained BERT with its head."""
    begin_bert(out, write_bert(out), WIDTH, 4)


def make_senses_bert(out: Path, cache: Path) -> None:
    """A smaller one, over the words of questions about single digits and pairs."""
    begin_bert(out, write_bert(out, sorted(digits_senses_llama.WORDS)), 64, 2)


def begin_bert(out: Path, tokenizer: Tokenizer, width: int, layers: int) -> None:
    """Write an untrained BERT."""
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,  # like the Q-Former of "digits"
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=64,
        token_types=True,
    )
    write_bert_config(out, config)
    kind: dict[str, Any] = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    modules = {
        "embeddings": BertEmbeddings(config, **kind),
        "layers": BertStack(config, config.num_hidden_layers, cross=False, **kind),
        "head": LmHead(config, **kind),
    }
    arrays = {
        f"{name}/{path}": np.asarray(variable[...])
        for name, module in modules.items()
        for path, variable in flatten(nnx.state(module)).items()
    }
    table = [
        *bert.embeddings(config, "embeddings/", "bert."),
        *bert.layers("layers/", "bert.", cross=False),
        *bert.head("head/", "cls.predictions."),
    ]
    write_weights(out, {rule.ours: rule for rule in table}, arrays)


MAKE = {
    "digits": make_digits,
    "digits_llama": make_llama,
    "digits_clip": make_clip,
    "digits_bert": make_bert,
    "digits_context": make_context,
    "digits_senses": make_senses,
    "digits_senses_bert": make_senses_bert,
}


def main(make: Mapping[str, Callable[[Path, Path], None]], description: str | None) -> None:
    """Make the folders that the command line names. ``make``: name -> function of the folder and a cache that makes
    it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", nargs="*", help="folders to make; default: all")
    parser.add_argument("--assets", type=Path, default=Path("instructblip_jax/assets"))
    parser.add_argument("--cache", type=Path, default=Path("build/digits_towers"))
    args = parser.parse_args()
    if unknown := set(args.made) - set(make):
        parser.error(f"nothing to make is called {', '.join(unknown)}; there are {', '.join(make)}")
    for name in args.made or make:  # argparse rejects its own default if there are choices
        out = args.assets / name
        out.mkdir(parents=True, exist_ok=True)
        make[name](out, args.cache)


if __name__ == "__main__":
    main(MAKE, __doc__)
