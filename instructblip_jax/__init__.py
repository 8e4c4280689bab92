"""InstructBLIP in JAX: instruction-tuned vision-language models, TPU first."""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "generate.rank": ("rank",),
    "generate.text": ("generate", "generate_ids", "stream"),
    "mesh": ("make_mesh",),
    "model": ("InstructBlip", "gradients", "loss"),
    "processors.processor": ("Processor",),
    "systems.trainable": ("trainable",),
}


class _Door(types.ModuleType):
    """Imports a public name when it is asked for: the processes that prepare data pass here, and need no jax."""

    def __getattr__(self, name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
                self.__dict__[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the room generate/ would put the module where the public function of its name belongs.
        if not (name in __all__ and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Door
