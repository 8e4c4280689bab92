"""The original's parameter counts, and a trainable set for each modality that a model has, no more."""

import jax
import pytest

from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.recipes.public import NEW
from instructblip_jax.systems.build import abstract
from instructblip_jax.systems.trainable import trains
from instructblip_jax.systems.x_instructblip import XInstructBlipConfig

TRAINED = {"image": 188_837_376, "video": 188_837_376, "audio": 182_937_856, "pc": 180_578_048}
"""Arithmetic from the original's code: Q-Former, queries, norm and projection to 4096."""


def test_what_trains_is_as_large_as_the_originals():
    config = NEW["x-instructblip-7b"]
    _, train, frozen = abstract(config, mesh=single_device_mesh(), dtype="bfloat16")
    sizes = {
        name: sum(x.size for path, x in train.items() if trains(path, config.trainable_sets[f"qformer_{name}"]))
        for name in TRAINED
    }
    assert sizes == TRAINED
    assert sum(x.size for x in jax.tree.leaves(train)) == sum(TRAINED.values())
    assert {path.split("/")[0] for path in frozen} == set(config.parts)


def test_a_model_has_sets_for_its_own_modalities():
    assert list(NEW["x-instructblip-pc-7b-new"].trainable_sets) == ["qformers", "qformer_pc"]
    assert list(XInstructBlipConfig.trainable_sets) == ["qformers", *(f"qformer_{name}" for name in TRAINED)]
    with pytest.raises(ValueError, match="'qformer_audio' is unknown; expected one of qformer_pc, qformers"):
        abstract(
            NEW["x-instructblip-pc-7b-new"], mesh=single_device_mesh(), dtype="bfloat16", trainable="qformer_audio"
        )
