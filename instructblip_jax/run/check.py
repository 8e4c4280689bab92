"""Checks of a run before anything is loaded or written; every error names the field."""

import dataclasses
import math
from pathlib import Path

from jax.sharding import Mesh

from instructblip_jax import families, hub
from instructblip_jax import mesh as meshes
from instructblip_jax.processors import fast_resize
from instructblip_jax.run.config import RunConfig
from instructblip_jax.run.open_data import TEMPLATE_SETS
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.protocol import SystemConfig
from instructblip_jax.systems.trainable import check_int8, prefixes
from instructblip_jax.train import tracker


def check(run: RunConfig, mesh: Mesh) -> None:
    """Raise ValueError for fields that do not fit one another or the mesh."""
    if run.data.templates not in TEMPLATE_SETS:
        raise ValueError(f"config.data.templates is {run.data.templates!r}; it is {' or '.join(TEMPLATE_SETS)}")
    if run.data.resize not in ("exact", "fast"):
        raise ValueError(f"config.data.resize is {run.data.resize!r}; it is 'exact' or 'fast'")
    if run.data.resize == "fast" and (modules := fast_resize.missing()):
        raise ValueError(
            f"config.data.resize is 'fast', and {modules} cannot be imported: pip install -e '.[fast]', or "
            "set it to 'exact'"
        )
    if run.wandb and tracker.missing():
        raise ValueError(
            f"config.wandb is {run.wandb!r}, and wandb cannot be imported: pip install -e '.[wandb]', or leave it empty"
        )
    run.data.augment.check()
    run.data.documents.check()
    if run.data.features and run.data.augment.is_on:
        raise ValueError(
            "config.data.features caches the features of images that never change, and config.data.augment changes "
            "them at each visit: use one of the two"
        )
    if not run.mixture.all_sets:
        raise ValueError("config.mixture.sets is empty: name at least one set to train on")
    micro = meshes.batch_shards(mesh) * run.optim.accumulation
    if run.mixture.groups:
        _check_groups(run, micro)
    if run.batch_size < 1:
        raise ValueError(f"config.batch_size {run.batch_size} is below 1")
    if run.batch_size % micro:
        raise ValueError(
            f"config.batch_size {run.batch_size} is not a multiple of {micro} "
            "(mesh.data x mesh.fsdp x optim.accumulation)"
        )
    if run.validate_every < -1:
        raise ValueError(f"config.validate_every is {run.validate_every}; it is -1, 0 (never) or a number of steps")
    if not 0 <= run.seed < 2**32:
        raise ValueError(f"config.seed is {run.seed}; it is a number from 0 to {2**32 - 1}")
    for name in ("log_every", "checkpoint_every", "checkpoints_kept"):
        if getattr(run, name) < 1:
            raise ValueError(f"config.{name} is {getattr(run, name)}; it must be at least 1")
    for name in ("instruction_lengths", "response_lengths"):
        if min(getattr(run.data, name), default=0) < 1:
            raise ValueError(f"config.data.{name} is {getattr(run.data, name)}; at least one length is needed")
    if run.data.window < 1 or run.data.shapes < 0:
        raise ValueError(f"config.data.window {run.data.window} and shapes {run.data.shapes}: at least 1 and 0")
    if (run.steps < 1) == (run.epochs <= 0):
        raise ValueError(f"config.steps is {run.steps} and epochs {run.epochs}; one must be positive, the other 0")


def _check_groups(run: RunConfig, micro: int) -> None:
    """``micro``: every batch size must be a multiple of this number."""
    where, names = "config.mixture.groups", run.mixture.all_sets
    if run.mixture.sets:
        raise ValueError(f"config.mixture.sets and {where} are both given; name each set in a group, or use no groups")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where}: {', '.join(twice)} is in several groups, or twice in one")
    for field in ("weights", "caps"):
        if unknown := sorted(set(getattr(run.mixture, field)) - set(names)):
            raise ValueError(f"config.mixture.{field} names {', '.join(unknown)}, which no group has")
    for name, group in run.mixture.groups.items():
        if not name or "/" in name:
            raise ValueError(f"{where}: {name!r} cannot be a group's name; letters, digits and _ can")
        if not group.sets:
            raise ValueError(f"{where}.{name}.sets is empty: name at least one set")
        if not 0 < group.weight < math.inf:
            raise ValueError(f"{where}.{name}.weight is {group.weight}; it must be positive")
        if group.batch_size < 1 or group.batch_size % micro:
            raise ValueError(
                f"{where}.{name}.batch_size {group.batch_size} is not a multiple of {micro} "
                "(mesh.data x mesh.fsdp x optim.accumulation)"
            )
        for field in ("instruction_lengths", "response_lengths"):
            if min(getattr(group, field), default=1) < 1:
                raise ValueError(f"{where}.{name}.{field} is {getattr(group, field)}; lengths are at least 1")
    total = sum(group.batch_size for group in run.mixture.groups.values())
    if run.batch_size != total:
        raise ValueError(f"config.batch_size is {run.batch_size}, and the groups' are {total} together; set it to that")
    if run.epochs:
        raise ValueError("config.epochs: groups have passes of different lengths; give config.steps instead")


def with_system(run: RunConfig) -> tuple[RunConfig, Path]:
    """The run `fitted` to the system named in its model's config.json, and the model's local directory.

    Raises FileNotFoundError or ValueError for a model that cannot be read or a field that does not fit its system.
    """
    directory = hub.resolve(run.model)
    return fitted(run, families.read_config(directory).configured(**run.system_options())), directory


def fitted(run: RunConfig, system: SystemConfig) -> RunConfig:
    """The run with the name of its trainable set filled in. Raises ValueError naming a field that does not fit the
    system."""
    trained = prefixes(run.trainable, system.trainable_sets)
    run = dataclasses.replace(run, trainable=run.trainable or next(iter(system.trainable_sets)))
    check_int8(run.int8, run.trainable, system.trainable_sets, system.parts, "config.")
    Layout(**run.layout).check(system.parts)
    if run.optim.accumulation > 1 and system.in_batch:
        raise ValueError(
            f"config.optim.accumulation is {run.optim.accumulation}: the loss of {run.model} compares the rows of a "
            "batch with one another, so the batch cannot be split; set it to 1"
        )
    if run.data.features and not system.feature_keys:
        raise ValueError(f"config.data.features is {run.data.features!r}: {run.model} has no cacheable features")
    if run.data.features and system.trains_features(trained):
        raise ValueError(f"config.data.features keeps a frozen tower's features; trainable {run.trainable!r} trains it")
    return run
