"""The former name of `recipes.instructblip`, for configuration files that import it. It goes with the next release."""

import warnings

from instructblip_jax.recipes.instructblip import finetune, own_data, paper

__all__ = ["finetune", "own_data", "paper"]
warnings.warn("instructblip_jax.recipe is now instructblip_jax.recipes.instructblip", FutureWarning, stacklevel=2)
