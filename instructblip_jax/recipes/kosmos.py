"""KOSMOS-1 as its paper states it (arXiv 2302.14045): a language model of 1.3 billion parameters trained from scratch.

A step reads 1.2 million tokens of three corpora: texts, pictures with captions, and pages with pictures among their
words.
"""

import dataclasses

from ml_collections import ConfigDict

from instructblip_jax.recipes.documents import KOSMOS
from instructblip_jax.run.config import complete

LONGEST = 2048
"""Tokens of a row, pictures included."""
PICTURE = 66
"""Tokens of a picture."""
STEPS = 300_000


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A kind of data, and how much of it a step reads.

    Attributes:
      rows: of a batch; ``prompt`` + ``response`` are the words of each, and ``pictures`` how many it may show.
    """

    sets: tuple[str, ...]
    rows: int
    prompt: int
    response: int
    pictures: int

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.rows * (self.prompt + self.response + self.pictures * PICTURE)


CORPORA: dict[str, Corpus] = {
    "text": Corpus(("text",), 256, 8, LONGEST - 8, 0),
    "pairs": Corpus(("laion", "coyo", "cc3m", "cc12m"), 4096, 8, 54, 1),
    "interleaved": Corpus(("interleaved",), 128, 8, 1536 - 8 - 5 * PICTURE, 5),
}
"""Section 3.1: half a million tokens of texts, as many of pairs, and 0.2 million of pages with up to 5 pictures. How
many rows these are is not published."""


INSTRUCTIONS = ("unnatural_instructions", "flan_v2")
"""Section 3.2: 68,478 instructions of the first, 54 thousand of the second."""
TUNING = {"steps": 10_000, "rate": 2e-5, "rows": 256}
"""Settings of the tuning on instructions. They are ours: the paper states none."""


def corpus(model: str, name: str) -> ConfigDict:
    """A run of the paper's settings on one corpus alone: rate 2e-4 after 375 steps, falling in a line to 0. Epsilon and
    clipping are those of KOSMOS-2's code."""
    own = CORPORA[name]
    config = complete(ConfigDict({"model": model, "steps": STEPS, "batch_size": own.rows}))
    config.trainable = "last_vision_layer"
    config.layout = {"trained": "zero", "vit": "replicated", "llm": "fsdp"}
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.remat = "layer"
    optim = config.optim
    optim.learning_rate, optim.warmup_start, optim.warmup_steps, optim.decay = 2e-4, 0.0, 375, "linear"
    optim.beta2, optim.weight_decay, optim.epsilon, optim.clip_norm = 0.98, 0.01, 1e-6, 2.0
    config.mixture.sets, config.mixture.exponent = own.sets, 1.0
    config.data.instruction_lengths, config.data.response_lengths = (own.prompt,), (own.response,)
    config.data.pictures = (own.pictures,)
    config.data.documents.update(KOSMOS)
    config.data.templates = "captions"
    config.evaluation.blind = False
    config.checkpoint_every = 5000
    return config


def joint(model: str) -> ConfigDict:
    """The paper's run: each step reads a batch of each corpus. Their weights, which it does not state, are here their
    shares of a step's tokens."""
    config, total = corpus(model, "interleaved"), sum(own.tokens for own in CORPORA.values())
    config.batch_size, config.mixture.sets = sum(own.rows for own in CORPORA.values()), ()
    config.mixture.groups = {
        name: {
            "sets": own.sets,
            "batch_size": own.rows,
            "weight": own.tokens / total,
            "instruction_lengths": (own.prompt,),
            "response_lengths": (own.response,),
            "pictures": (own.pictures,),
        }
        for name, own in CORPORA.items()
    }
    return config


def instructed(model: str) -> ConfigDict:
    """Section 3.2: tuning on instructions without pictures, of which the answers alone count."""
    config = corpus(model, "text")
    config.steps, config.batch_size, config.optim.learning_rate = TUNING["steps"], TUNING["rows"], TUNING["rate"]
    config.mixture.sets, config.data.templates = INSTRUCTIONS, "instructions"
    config.data.instruction_lengths, config.data.response_lengths = (64, 256, 1024), (64, 256, LONGEST - 1024)
    config.checkpoint_every = 1000
    return config
