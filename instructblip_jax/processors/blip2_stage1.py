"""The processor of BLIP-2's first stage: pictures and captions by BERT's tokenizer."""

from instructblip_jax.processors import cleaning
from instructblip_jax.processors.pairs import PairProcessor

TRAINED_TOKENS = 32
"""Tokens of a caption that are read in training, [CLS] and [SEP] included."""


class Blip2Stage1Processor(PairProcessor):
    """See the module; captions are cleaned as BLIP's are, and a prompt may be empty."""

    KINDS = ("image",)
    prompts_may_be_empty = True

    def clean(self, text: str) -> str:
        """See `PairProcessor`."""
        return cleaning.BLIP2.caption(text)

    def token_limit(self, *, training: bool) -> int:
        """See `PairProcessor`: `TRAINED_TOKENS`, and otherwise as many as there are positions."""
        positions = self.config.qformer.max_position_embeddings
        return min(TRAINED_TOKENS, positions) if training else positions
