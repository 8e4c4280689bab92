"""The former name of `run.config`, for configuration files that import it. It goes with the next release."""

import warnings

from instructblip_jax.run.config import complete

__all__ = ["complete"]
warnings.warn("instructblip_jax.config is now instructblip_jax.run.config", FutureWarning, stacklevel=2)
