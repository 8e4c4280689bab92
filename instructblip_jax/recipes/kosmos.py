"""KOSMOS-1's run according to its paper (arXiv 2302.14045): a 1.3-billion-parameter language model from scratch.

A step reads 1.2 million tokens of three corpora: texts, image-caption pairs, and pages with interleaved images.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from instructblip_jax.recipes.documents import KOSMOS
from instructblip_jax.run.config import complete

LONGEST = 2048
"""Tokens per row, images included."""
PICTURE = 66
"""Tokens per image."""
STEPS = 300_000


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A kind of data, and the amount of it in a step.

    Attributes:
      rows: per batch; ``prompt`` + ``response`` are the text tokens of each, and ``pictures`` its numbers of images.
    """

    sets: tuple[str, ...]
    rows: int
    prompt: int
    response: int
    pictures: int

    @property
    def tokens(self) -> int:
        """Tokens per batch."""
        return self.rows * (self.prompt + self.response + self.pictures * PICTURE)


CORPORA: dict[str, Corpus] = {
    "text": Corpus(("texts",), 256, 8, LONGEST - 8, 0),
    "pairs": Corpus(("laion", "coyo", "cc3m", "cc12m"), 4096, 8, 54, 1),
    "interleaved": Corpus(("mmc4",), 128, 8, 1536 - 8 - 5 * PICTURE, 5),
}
"""Section 3.1: half a million tokens each of texts and pairs, and 0.2 million of pages with up to 5 images. The paper
does not give the number of rows."""


INSTRUCTIONS = Corpus(("unnatural_instructions", "flan_v2"), 256, 1024, 1024, 0)
"""Section 3.2: 68,478 instructions of the first, 54 thousand of the second."""


def corpus(model: str, name: str) -> ConfigDict:
    """A run with the paper's settings on one corpus only."""
    own = CORPORA[name]
    config = _begin(model, own.rows)
    config.mixture.sets = own.sets
    config.data.instruction_lengths, config.data.response_lengths = (own.prompt,), (own.response,)
    config.data.pictures = (own.pictures,)
    return config


def paper(model: str) -> ConfigDict:
    """Section 3: each step has a batch of each corpus. No weights are published; losses are weighted by their number of
    tokens."""
    return _together(model, CORPORA)


def instructed(model: str) -> ConfigDict:
    """Section 3.2: tuning on instructions without images, with loss only on the answers, together with a sixteenth of
    the corpora. Steps, rate and shares are ours."""
    corpora = {name: dataclasses.replace(own, rows=own.rows // 16) for name, own in CORPORA.items()}
    config = _together(model, {"instructions": INSTRUCTIONS} | corpora)
    config.steps, config.optim.learning_rate, config.checkpoint_every = 10_000, 2e-5, 1000
    return config


def _begin(model: str, rows: int) -> ConfigDict:
    """Learning rate 2e-4 after 375 steps, falling linearly to 0. Epsilon and clipping are from KOSMOS-2's code."""
    config = complete(ConfigDict({"model": model, "steps": STEPS, "batch_size": rows}))
    config.trainable = "last_vision_layer"
    config.layout = {"trained": "zero", "vit": "replicated", "llm": "fsdp"}
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.remat = "layer"
    optim = config.optim
    optim.learning_rate, optim.warmup_start, optim.warmup_steps, optim.decay = 2e-4, 0.0, 375, "linear"
    optim.beta2, optim.weight_decay, optim.epsilon, optim.clip_norm = 0.98, 0.01, 1e-6, 2.0
    config.mixture.exponent = 1.0
    config.data.documents.update(KOSMOS)
    config.data.templates = "captions"
    config.evaluation.blind = False
    config.checkpoint_every = 5000
    return config


def _together(model: str, corpora: Mapping[str, Corpus]) -> ConfigDict:
    """A run with a batch of each corpus per step."""
    config = _begin(model, sum(own.rows for own in corpora.values()))
    total = sum(own.tokens for own in corpora.values())
    config.mixture.groups = {
        name: {
            "sets": own.sets,
            "batch_size": own.rows,
            "weight": own.tokens / total,
            "instruction_lengths": (own.prompt,),
            "response_lengths": (own.response,),
            "pictures": (own.pictures,),
        }
        for name, own in corpora.items()
    }
    return config
