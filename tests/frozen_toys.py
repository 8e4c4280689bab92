"""Small configurations of Frozen."""

import checkpoints


def config_json(words: int, family: str = "llama", **fields) -> dict:
    """A ``config.json`` of Frozen with a small NF-ResNet. The vocabulary's last token, ``<image>``, has no row."""
    text = checkpoints.TEXT[family] | {"vocab_size": words - 1, "pad_token_id": 0, "eos_token_id": 2}
    tower = {"model_type": "nf_resnet", "widths": [12, 20], "depths": [2, 3], "stem_width": 8, "image_size": 45}
    return {
        "model_type": "frozen",
        "prefix_vectors": 2,
        "image_token_id": words - 1,
        "vision_config": tower,
        "text_config": text,
        **fields,
    }
