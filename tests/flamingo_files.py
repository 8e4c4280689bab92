"""Small ``config.json`` files of Flamingo and Idefics."""

import checkpoints

KINDS = ("flamingo", "idefics")


def flamingo_json(words: int, sizes: dict = checkpoints.MINI, family: str = "llama", **fields) -> dict:
    """A ``config.json`` of Flamingo, for a vocabulary whose last two tokens are ``<|endofchunk|>`` and ``<image>``; the
    language model's tables have more rows than it knows tokens."""
    return {
        "model_type": "flamingo",
        "added_tokens": 2,
        "chunk_token_id": words - 2,
        "image_token_id": words - 1,
        "known_tokens": words - 2,
        "vision_config": sizes["vision_config"] | {"model_type": "clip_vision_model"},
        "text_config": checkpoints.TEXT[family] | {"vocab_size": words + 3, "eos_token_id": 2},
        "resampler_config": {"latents": 3, "depth": 1, "heads": 3, "head_size": 10, "activation": "squared_relu"},
        "cross_attention_config": {"every": 2, "heads": 3, "head_size": 6, "inner": 44, "activation": "squared_relu"},
        **fields,
    }


def idefics_json(words: int, sizes: dict = checkpoints.MINI, **fields) -> dict:
    """A ``config.json`` as Idefics' repository has it, for a vocabulary whose last two tokens are its own."""
    vision = sizes["vision_config"]
    return {
        **checkpoints.LLAMA,
        "model_type": "idefics",
        "vocab_size": words - 2,
        "additional_vocab_size": 2,
        "eos_token_id": 2,
        "cross_layer_interval": checkpoints.LLAMA["num_hidden_layers"],
        "qk_layer_norms": True,
        "alpha_type": "float",
        "use_resampler": True,
        "perceiver_config": {
            "qk_layer_norms_perceiver": True,
            "resampler_depth": 1,
            "resampler_head_dim": 10,
            "resampler_n_heads": 3,
            "resampler_n_latents": 3,
        },
        "vision_config": {
            "embed_dim": vision["hidden_size"],
            **{k: x for k, x in vision.items() if k != "hidden_size"},
        },
        **fields,
    }
