"""InstructBLIP's and BLIP-2's processor: images or frames, and an instruction for Q-Former and language model."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from instructblip_jax.processors.base import Row
from instructblip_jax.processors.image_text import ImageTextProcessor
from instructblip_jax.processors.tokenizer import TextTokenizer


class InstructBlipProcessor(ImageTextProcessor):
    """Adds the tokens for InstructBLIP's Q-Former from its BERT tokenizer; BLIP-2's reads none."""

    VIDEO = ("instructblipvideo",)
    qformer: TextTokenizer | None = None
    _warned = False

    @classmethod
    def from_directory(cls, directory: Path, config: Any) -> "InstructBlipProcessor":
        """See `ImageTextProcessor`."""
        processor = super().from_directory(directory, config)
        if config.reads_instruction:
            processor.qformer = TextTokenizer(directory / "qformer_tokenizer")
            rows = f"{directory / 'config.json'}: qformer_config.vocab_size"
            processor.qformer.check_fits(config.qformer.vocab_size, rows)
        return processor

    def encode(
        self, instruction: str, response: str | None = None, *, training: bool = False, pictures: int = 1
    ) -> dict[str, np.ndarray]:
        """The token rows of one sample, unpadded int32 [n]: input_ids, qformer_input_ids, labels.

        Only the Q-Former's row is ever cut: it loses its beginning, in ``training`` as in the original
        (`InstructBlipConfig.instruction_limit`). The first row that exceeds the Q-Former's positions gives a warning.
        """
        row = super().encode(instruction, response, training=training, pictures=pictures)
        return self.read_twice(row, instruction, training=training)

    def read_twice(self, row: dict[str, np.ndarray], instruction: str, *, training: bool) -> dict[str, np.ndarray]:
        """The row with the Q-Former's tokens of its instruction in addition to the language model's."""
        if self.qformer is not None:
            limit = self.config.instruction_limit(training=training)
            row["qformer_input_ids"] = self.qformer.encode(instruction)
            if (count := len(row["qformer_input_ids"])) > limit:
                row["qformer_input_ids"] = self.qformer.encode(instruction, limit)
                if limit == self.config.qformer.max_position_embeddings:
                    self._warn(count, limit)
        return row

    def _warn(self, count: int, limit: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"an instruction is {count} tokens long, and the Q-Former has {limit} positions: it reads the last "
                f"{limit}, the language model reads all (reported for the first such instruction only)",
                stacklevel=4,
            )

    def lengths(self, row: Row) -> tuple[int, int]:
        """Tokens of a sample's instruction, the longer of its two rows, and of its response."""
        prompt, response = super().lengths(row)
        return max(prompt, len(row.get("qformer_input_ids", ()))), response

    def pad_id(self, key: str) -> int:
        """See `ImageTextProcessor`."""
        return self.qformer.pad_id if self.qformer and key.startswith("qformer") else self.tokenizer.pad_id
