"""InstructBLIP in JAX: instruction-tuned vision-language models, TPU first."""

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instructblip_jax.decoding.rank import rank
    from instructblip_jax.decoding.text import generate, generate_ids, stream
    from instructblip_jax.mesh import make_mesh
    from instructblip_jax.model import InstructBlip, gradients, loss
    from instructblip_jax.processors.instructblip import Processor
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

_HOMES = {
    "generate.rank": ["rank"],
    "generate.text": ["generate", "generate_ids", "stream"],
    "mesh": ["make_mesh"],
    "model": ["InstructBlip", "gradients", "loss"],
    "processors.processor": ["Processor"],
    "systems.trainable": ["trainable"],
}


def __getattr__(name: str) -> Any:
    """The public names are imported when first asked for: jax takes seconds, and metrics and --help need none of it."""
    if name == "__version__":
        return importlib.metadata.version(__name__)
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):  # importing generate/ would put it over `generate`
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
