"""InstructBLIP and its relatives in JAX: instruction-tuned vision-language models, TPU first."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instructblip_jax.comparing import embed_images, embed_texts, match, similarity
    from instructblip_jax.decoding.rank import rank
    from instructblip_jax.decoding.text import generate, generate_ids, stream
    from instructblip_jax.evals.gallery import show
    from instructblip_jax.families import trainable
    from instructblip_jax.looking import look, overlay
    from instructblip_jax.losses import gradients, loss
    from instructblip_jax.mesh import make_mesh
    from instructblip_jax.model import InstructBlip, Model, from_pretrained
    from instructblip_jax.processor import Processor
    from instructblip_jax.run.trained import from_run

_HOMES = {
    "comparing": ["embed_images", "embed_texts", "match", "similarity"],
    "decoding.rank": ["rank"],
    "decoding.text": ["generate", "generate_ids", "stream"],
    "evals.gallery": ["show"],
    "families": ["trainable"],
    "looking": ["look", "overlay"],
    "losses": ["gradients", "loss"],
    "mesh": ["make_mesh"],
    "model": ["InstructBlip", "Model", "from_pretrained"],
    "processor": ["Processor"],
    "run.trained": ["from_run"],
}
__all__ = [
    "InstructBlip",
    "Model",
    "Processor",
    "embed_images",
    "embed_texts",
    "from_pretrained",
    "from_run",
    "generate",
    "generate_ids",
    "gradients",
    "look",
    "loss",
    "make_mesh",
    "match",
    "overlay",
    "rank",
    "show",
    "similarity",
    "stream",
    "trainable",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use: jax takes seconds to import, and metrics and --help do not need it."""
    if name == "__version__":
        return importlib.metadata.version(__name__)
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
