"""The public `loss` and `gradients` of a prepared batch."""

from typing import Any

import jax
import numpy as np

from instructblip_jax.convert import save
from instructblip_jax.model import BatchArrays, Model
from instructblip_jax.objectives.term import mean, mean_of


def loss(model: Model, batch: BatchArrays) -> tuple[jax.Array, dict[str, Any]]:
    """The loss of a batch (float32, no dropout): the weighted sum of its terms' means; for a single term, the mean
    negative log-likelihood over labels != -100. Also "tokens", the count of the first term, and "terms" {name: mean} if
    there are several."""
    terms = model._run(model._loss, batch)
    aux: dict[str, Any] = {"tokens": next(iter(terms.values())).counts.sum()}
    if len(terms) > 1:
        aux["terms"] = {name: mean_of(term.sums.sum(), term.counts.sum()) for name, term in terms.items()}
    return mean(terms), aux


def gradients(model: Model, batch: BatchArrays) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """`loss` and its gradients: Hugging Face name -> float32 array in Hugging Face layout, trained parameters only."""
    value, grads = model._run(model._gradients, batch)
    return value, dict(save.tensors(model.family.rules(model.config), grads))
