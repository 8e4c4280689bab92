"""Small configurations of KOSMOS, and values of its decoder. NumPy only."""

import numpy as np

TEXT = {
    "embed_dim": 32,
    "layers": 3,
    "ffn_dim": 56,
    "attention_heads": 4,
    "max_position_embeddings": 64,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_function": "gelu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def config_json(words: int, sizes: dict, kind: str = "kosmos-1", **text) -> dict:
    """A ``config.json`` of KOSMOS for a vocabulary whose last two tokens are ``<image>`` and ``</image>``; ``text``
    changes its text_config."""
    return {
        "model_type": kind,
        "latent_query_num": 5,
        "image_begin_token_id": words - 2,
        "image_end_token_id": words - 1,
        "vision_config": sizes["vision_config"] | {"num_hidden_layers": 2},
        "text_config": TEXT | {"vocab_size": -(-words // 64) * 64, "pad_token_id": words - 3} | text,
    }


def values(z: np.ndarray, name: str) -> np.ndarray:
    """Standard normal numbers -> values of KOSMOS' decoder, whose head is its embedding: words that were as long as all
    else in a state would answer themselves for ever."""
    if z.ndim == 1:
        return 1 + 0.2 * z if name.endswith(("norm.weight", "_ln.weight")) else 0.05 * z
    if "embed_tokens" in name:
        z[2] *= 2.5  # the end token wins now and then
        return 0.1 * z
    return z * np.float32((2.75 if "q_proj" in name or "k_proj" in name else 2.2) * z.shape[1] ** -0.5)
