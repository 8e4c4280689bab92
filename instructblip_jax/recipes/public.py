"""The sizes of the public models by hub id, so that planning for them needs neither network nor weights."""

from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.instructblip import InstructBlipConfig, TextConfig


def _model(text: TextConfig) -> InstructBlipConfig:
    """Vision tower and Q-Former are the same in all of them, and have the default sizes."""
    return InstructBlipConfig(VitConfig(), QFormerConfig(), text)


PUBLIC = {
    "Salesforce/instructblip-flan-t5-xl": _model(
        T5Config(d_model=2048, d_ff=5120, num_heads=32, num_layers=24, num_decoder_layers=24)
    ),
    "Salesforce/instructblip-flan-t5-xxl": _model(
        T5Config(d_model=4096, d_ff=10240, num_heads=64, num_layers=24, num_decoder_layers=24)
    ),
    "Salesforce/instructblip-vicuna-7b": _model(LlamaConfig(vocab_size=32064)),
    "Salesforce/instructblip-vicuna-13b": _model(
        LlamaConfig(
            vocab_size=32064,
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
        )
    ),
}
"""Hub id -> sizes. Token ids are the classes' defaults, because neither memory nor time depends on them."""
