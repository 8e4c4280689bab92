"""KerasHub's side of `kerashub.py`: BLIP-2 of the same sizes on Keras's JAX backend.

It runs in an environment of its own, which has KerasHub and not this project. It answers the requests of `workers`.
"""

import argparse
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}

import keras
import keras_hub
import numpy as np
from workers import serve, timed


def language_model(raw: dict) -> tuple[keras.Model, bool]:
    """The language model of a public ``config.json``, and whether it has an encoder. Frozen, so without dropout."""
    text = raw["text_config"]
    shared = {
        "vocabulary_size": text["vocab_size"],
        "num_query_tokens": raw["num_query_tokens"],
        "qformer_hidden_dim": raw["qformer_config"]["hidden_size"],
        "dropout": 0.0,
    }
    if text["model_type"] == "t5":
        return keras_hub.models.BLIP2FlanT5(
            num_layers=text["num_layers"],
            num_heads=text["num_heads"],
            hidden_dim=text["d_model"],
            intermediate_dim=text["d_ff"],
            key_value_dim=text["d_kv"],
            **shared,
        ), True
    return keras_hub.models.BLIP2CustomOPT(
        num_layers=text["num_hidden_layers"],
        num_heads=text["num_attention_heads"],
        hidden_dim=text["hidden_size"],
        intermediate_dim=text["ffn_dim"],
        max_sequence_length=text["max_position_embeddings"],
        **shared,
    ), False


def build(raw: dict, optim: dict[str, float]) -> tuple[Any, bool]:
    """The task model, ready to train its Q-Former, queries and projection; and whether it has an encoder."""
    vision, qformer = raw["vision_config"], raw["qformer_config"]
    tower = keras_hub.models.BLIP2VisionEncoder(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        num_layers=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        hidden_dim=vision["hidden_size"],
        intermediate_dim=vision["intermediate_size"],
        use_patch_bias=True,
        use_class_token=True,
        use_mha_bias=True,
        use_mlp_bias=True,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        initializer_range=0.02,
    )
    bridge = keras_hub.models.BLIP2QFormer(
        num_query_tokens=raw["num_query_tokens"],
        num_layers=qformer["num_hidden_layers"],
        num_heads=qformer["num_attention_heads"],
        hidden_dim=qformer["hidden_size"],
        intermediate_dim=qformer["intermediate_size"],
        vision_dim=vision["hidden_size"],
        cross_attention_frequency=2,
        dropout=0.1,
        layer_norm_epsilon=1e-12,
    )
    language, encodes = language_model(raw)
    backbone = keras_hub.models.BLIP2Backbone(vision_encoder=tower, qformer=bridge, language_model=language)
    task = keras_hub.models.BLIP2Seq2SeqLM if encodes else keras_hub.models.BLIP2CausalLM
    model = task(preprocessor=None, backbone=backbone)
    trained = {id(v) for part in (bridge, language.language_projection) for v in part.variables}
    for variable in model.weights:
        variable.trainable = id(variable) in trained
    optimizer = keras.optimizers.AdamW(**optim)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, weighted_metrics=None)
    return model, encodes


def training_inputs(batch: dict[str, np.ndarray], encodes: bool) -> tuple[dict, np.ndarray, np.ndarray]:
    """A prepared batch -> Keras's inputs, labels and sample weights."""
    labels = batch["labels"]
    prefix = "encoder_" if encodes else ""
    inputs = {
        "images": batch["pixel_values"],
        f"{prefix}token_ids": batch["input_ids"],
        f"{prefix}padding_mask": batch["attention_mask"],
    }
    if encodes:
        start = np.zeros_like(labels[:, :1])
        inputs["decoder_token_ids"] = np.concatenate([start, np.maximum(labels[:, :-1], 0)], axis=1)
        inputs["decoder_padding_mask"] = np.ones_like(labels)
    else:  # the next position's token
        labels = np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], axis=1)
    return inputs, np.maximum(labels, 0), (labels != -100).astype(np.float32)


def prompt_inputs(batch: dict[str, np.ndarray], encodes: bool, length: int) -> dict[str, np.ndarray]:
    """Prompts and room for ``length`` new tokens."""
    ids = batch["input_ids"]
    if encodes:
        room = np.zeros((len(ids), 1 + length), np.int32)
        prompts = {"encoder_token_ids": ids, "encoder_padding_mask": batch["attention_mask"]}
        return prompts | {
            "images": batch["pixel_values"],
            "decoder_token_ids": room,
            "decoder_padding_mask": np.arange(1 + length) < np.ones_like(room),
        }
    room = np.pad(ids, ((0, 0), (0, length)))
    mask = np.broadcast_to(np.arange(room.shape[1]) < ids.shape[1], room.shape)
    return {"images": batch["pixel_values"], "token_ids": room, "padding_mask": mask}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    directory = parser.parse_args().directory
    settings = json.loads((directory / "race.json").read_text(encoding="utf-8"))
    model, encodes = build(json.loads((directory / "config.json").read_text(encoding="utf-8")), settings["optim"])

    @cache
    def start(name: str):
        with np.load(directory / f"{name}.npz") as file:
            batch = dict(file)
        if "labels" in batch:
            inputs, labels, weights = training_inputs(batch, encodes)
            return lambda: model.train_on_batch(inputs, labels, sample_weight=weights)
        prompts = prompt_inputs(batch, encodes, settings["new_tokens"])
        return lambda: model.generate(prompts, stop_token_ids=None)

    def run(name: str, calls: int) -> dict[str, float]:
        return timed(lambda: start(name)(), calls) | {
            "trained": sum(int(np.prod(v.shape)) for v in model.trainable_weights),
            "frozen": sum(int(np.prod(v.shape)) for v in model.weights if not v.trainable),
        }

    serve(run)


if __name__ == "__main__":
    main()
