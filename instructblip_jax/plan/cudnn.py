"""cuDNN attention in programs for absent GPUs."""

import contextlib
from collections.abc import Iterator

from jax._src.cudnn import fused_attention_stablehlo

from instructblip_jax.models.layers import attention

VERSION = 90800
"""cuDNN 9.8."""


@contextlib.contextmanager
def assumed() -> Iterator[None]:
    """Trace as on a machine with GPUs and cuDNN.

    jax asks the installed cuDNN for its version while it traces; a program that calls cuDNN is compiled without it.
    """
    answers = [
        (attention, "has_cudnn", lambda: True),
        (fused_attention_stablehlo, "check_cudnn_version", lambda: VERSION),
    ]
    before = [getattr(module, name) for module, name, _ in answers]
    try:
        for module, name, answer in answers:
            setattr(module, name, answer)
        yield
    finally:
        for (module, name, _), own in zip(answers, before, strict=True):
            setattr(module, name, own)
