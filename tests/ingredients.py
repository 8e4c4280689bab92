"""Parts of an InstructBLIP or BLIP-2 model: a BERT, a plain T5, a plain LLaMA; tiny, in their public layouts."""

import json
from pathlib import Path

import checkpoints
import numpy as np
import toys
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

LAYERS, WIDTH, INNER, POSITIONS = 2, 16, 24, 40  # of the toy's Q-Former
T5 = {"d_model": 20, "d_kv": 6, "d_ff": 28, "num_heads": 3, "num_layers": 2, "num_decoder_layers": 1}


def without_token(directory: Path, token: str) -> int:
    """Take an added token out of a tokenizer; returns the number of tokens left."""
    path = directory / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["added_tokens"] = [entry for entry in raw["added_tokens"] if entry["content"] != token]
    path.write_text(json.dumps(raw))
    return Tokenizer.from_file(str(path)).get_vocab_size()


def write_bert(directory: Path, *, old_names: bool = True) -> Path:
    """A BERT with one layer more than the toys' Q-Former; old ones have a prefix, gamma and beta, and a head."""
    toys.write_tokenizers(directory / "both")
    (directory / "both" / "qformer_tokenizer").rename(directory / "bert")
    directory = directory / "bert"
    rows = without_token(directory, "[DEC]")
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    shapes = {
        "embeddings.word_embeddings.weight": (rows, WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
        "pooler.dense.weight": (WIDTH, WIDTH),
    }
    for n in range(LAYERS + 1):
        layer = f"encoder.layer.{n}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= {f"{layer}.attention.{name}.weight": (WIDTH, WIDTH), f"{layer}.attention.{name}.bias": (WIDTH,)}
        shapes |= {f"{layer}.attention.output.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
        shapes |= {f"{layer}.intermediate.dense.weight": (INNER, WIDTH), f"{layer}.intermediate.dense.bias": (INNER,)}
        shapes |= {f"{layer}.output.dense.weight": (WIDTH, INNER), f"{layer}.output.dense.bias": (WIDTH,)}
        shapes |= {f"{layer}.output.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    tensors = {name: checkpoints.values(name, shape, 9) for name, shape in shapes.items()}
    if old_names:
        tensors = {old(name): x for name, x in tensors.items()} | {"cls.predictions.bias": np.zeros(rows, np.float32)}
    save_file(tensors, directory / "model.safetensors")
    config = {"model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": LAYERS + 1, "num_attention_heads": 2}
    config |= {"intermediate_size": INNER, "max_position_embeddings": POSITIONS, "vocab_size": rows}
    (directory / "config.json").write_text(json.dumps(config | {"type_vocab_size": 2, "hidden_act": "gelu"}))
    return directory


def old(name: str) -> str:
    return "bert." + name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")


def write_plain_t5(directory: Path, rows: int) -> Path:
    """A FlanT5 as published: names without prefix, gelu_new, its own tokenizer without ``<image>``."""
    toys.write_tokenizers(directory, "blip-2")
    assert without_token(directory, "<image>") == rows
    sizes = checkpoints.MINI | {"text_config": checkpoints.TINY["text_config"] | T5 | {"vocab_size": rows}}
    whole = checkpoints.write(directory / "whole", checkpoints.config_json("blip-2", sizes), seed=6)
    tensors = load_file(whole / "model.safetensors")
    prefix = "language_model."
    plain = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    plain["encoder.embed_tokens.weight"] = plain["shared.weight"].copy()
    save_file(plain, directory / "model.safetensors")
    config = sizes["text_config"] | {"architectures": ["T5ForConditionalGeneration"], "dense_act_fn": "gelu_new"}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def write_llama_tokenizer(directory: Path) -> int:
    """Letters a, b, c and the blank; ``<s>`` begins a text, nothing pads. Returns the number of tokens."""
    vocabulary = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", *"abc\u2581"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    config |= {"pad_token": None, "added_tokens_decoder": {"1": {"content": "<s>"}}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def write_plain_llama(directory: Path) -> Path:
    """A LLaMA as Vicuna is published: names without prefix, one row per token, a rotary buffer."""
    rows, width, inner, layers = write_llama_tokenizer(directory), 24, 40, 2
    shapes = {
        "model.embed_tokens.weight": (rows, width),
        "lm_head.weight": (rows, width),
        "model.norm.weight": (width,),
    }
    for n in range(layers):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.self_attn.{short}_proj.weight": (width, width) for short in "qkvo"}
        shapes |= {f"{layer}.mlp.{short}_proj.weight": (inner, width) for short in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{layer}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    tensors = {name: checkpoints.values(name, shape, 8) for name, shape in shapes.items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(3, np.float32)
    save_file(tensors, directory / "model.safetensors")
    config = {"model_type": "llama", "vocab_size": rows, "hidden_size": width, "intermediate_size": inner}
    config |= {"num_hidden_layers": layers, "num_attention_heads": 3, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": -1, "tie_word_embeddings": False}
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return directory
