"""InstructBLIP in JAX: instruction-tuned vision-language models, TPU first."""

from instructblip_jax.generate.rank import rank
from instructblip_jax.generate.text import generate, generate_ids, stream
from instructblip_jax.mesh import make_mesh
from instructblip_jax.model import InstructBlip, gradients, loss
from instructblip_jax.processors.processor import Processor
from instructblip_jax.systems.trainable import trainable

__all__ = [
    "InstructBlip",
    "Processor",
    "generate",
    "generate_ids",
    "gradients",
    "loss",
    "make_mesh",
    "rank",
    "stream",
    "trainable",
]
