"""The table of systems by the model_type in ``config.json``. One entry per family; nothing else dispatches by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instructblip_jax.convert import adapter, ingredients
from instructblip_jax.convert import assemble as engine
from instructblip_jax.convert.assemble import Draft
from instructblip_jax.convert.drafts import albef as albef_draft
from instructblip_jax.convert.drafts import blip as blip_draft
from instructblip_jax.convert.drafts import blip2_stage1 as blip2_stage1_draft
from instructblip_jax.convert.drafts import flamingo as flamingo_draft
from instructblip_jax.convert.drafts import frozen as frozen_draft
from instructblip_jax.convert.drafts import instructblip as instructblip_draft
from instructblip_jax.convert.drafts import kosmos as kosmos_draft
from instructblip_jax.convert.drafts import llava as llava_draft
from instructblip_jax.convert.drafts import x_instructblip as x_instructblip_draft
from instructblip_jax.convert.export import copy_files, kept
from instructblip_jax.convert.export import export as export_directory
from instructblip_jax.convert.layouts import (
    albef,
    albef_original,
    blip_original,
    flamingo,
    frozen,
    hf_blip,
    hf_blip2_retrieval,
    hf_idefics,
    hf_instructblip,
    hf_kosmos,
    hf_llava,
    lavis,
    x_instructblip,
)
from instructblip_jax.convert.new_directory import check_free, new_directory
from instructblip_jax.convert.shards import Shards, open_shards
from instructblip_jax.convert.write import CODES, MAX_SHARD_BYTES, Tensor, Written, write_shards
from instructblip_jax.family import Family, Tensors
from instructblip_jax.files import read_json
from instructblip_jax.processors import albef as albef_processor
from instructblip_jax.processors import blip as blip_processor
from instructblip_jax.processors.blip2_stage1 import Blip2Stage1Processor
from instructblip_jax.processors.flamingo import FlamingoProcessor
from instructblip_jax.processors.frozen import FrozenProcessor
from instructblip_jax.processors.idefics import IdeficsProcessor
from instructblip_jax.processors.instructblip import InstructBlipProcessor
from instructblip_jax.processors.kosmos import KosmosProcessor
from instructblip_jax.processors.llava import LlavaProcessor
from instructblip_jax.processors.x_instructblip import XInstructBlipProcessor
from instructblip_jax.systems.albef import AlbefConfig
from instructblip_jax.systems.blip import BlipConfig
from instructblip_jax.systems.blip2_stage1 import Blip2Stage1Config
from instructblip_jax.systems.flamingo import FlamingoConfig
from instructblip_jax.systems.frozen import FrozenConfig
from instructblip_jax.systems.instructblip import InstructBlipConfig
from instructblip_jax.systems.kosmos import KosmosConfig
from instructblip_jax.systems.llava import LlavaConfig
from instructblip_jax.systems.protocol import Adapts, SystemConfig
from instructblip_jax.systems.trainable import ADAPTERS, path_filter, prefixes
from instructblip_jax.systems.x_instructblip import XInstructBlipConfig

INSTRUCTBLIP = Family(
    InstructBlipConfig.trainable_sets,
    hf_instructblip.read_config,
    hf_instructblip.rules,
    hf_instructblip.ignored,
    hf_instructblip.describe,
    InstructBlipProcessor.from_directory,
    instructblip_draft.draft,
    replaced=lavis.instructblip,
)
BLIP2_STAGE1 = Family(
    Blip2Stage1Config.trainable_sets,
    hf_blip2_retrieval.read_config,
    hf_blip2_retrieval.rules,
    hf_blip2_retrieval.ignored,
    hf_blip2_retrieval.describe,
    Blip2Stage1Processor.from_directory,
    blip2_stage1_draft.draft,
    replaced=lavis.blip2_stage1,
)
LLAVA = Family(
    LlavaConfig.trainable_sets,
    hf_llava.read_config,
    hf_llava.rules,
    hf_llava.ignored,
    hf_llava.describe,
    LlavaProcessor.from_directory,
    llava_draft.draft,
    hf_llava.unread,
    hf_llava.MODULES,
)
FLAMINGO = Family(
    FlamingoConfig.trainable_sets,
    flamingo.read_config,
    flamingo.rules,
    flamingo.ignored,
    flamingo.describe,
    FlamingoProcessor.from_directory,
    flamingo_draft.draft,
    flamingo.unread,
)
IDEFICS = Family(
    FlamingoConfig.trainable_sets,
    hf_idefics.read_config,
    hf_idefics.rules,
    hf_idefics.ignored,
    hf_idefics.describe,
    IdeficsProcessor.from_directory,
    unread=hf_idefics.unread,
)
ALBEF = Family(
    AlbefConfig.trainable_sets,
    albef.read_config,
    albef.rules,
    albef.ignored,
    hf_instructblip.describe,
    albef_processor.from_directory,
    albef_draft.draft,
    original=albef_original.draft,
)
BLIP = Family(
    BlipConfig.trainable_sets,
    hf_blip.read_config,
    hf_blip.rules,
    hf_blip.ignored,
    hf_instructblip.describe,
    blip_processor.from_directory,
    blip_draft.draft,
    original=blip_original.draft,
)
KOSMOS = Family(
    KosmosConfig.trainable_sets,
    hf_kosmos.read_config,
    hf_kosmos.rules,
    hf_kosmos.ignored,
    hf_instructblip.describe,
    KosmosProcessor.from_directory,
    kosmos_draft.draft,
)
FROZEN = Family(
    FrozenConfig.trainable_sets,
    frozen.read_config,
    frozen.rules,
    frozen.ignored,
    hf_instructblip.describe,
    FrozenProcessor.from_directory,
    frozen_draft.draft,
)
X_INSTRUCTBLIP = Family(
    XInstructBlipConfig.trainable_sets,
    x_instructblip.read_config,
    x_instructblip.rules,
    x_instructblip.ignored,
    hf_instructblip.describe,
    XInstructBlipProcessor.from_directory,
    x_instructblip_draft.draft,
    replaced=x_instructblip.replaced,
)
FAMILIES: dict[str, Family] = {
    "instructblip": INSTRUCTBLIP,
    "instructblipvideo": INSTRUCTBLIP,
    "blip-2": INSTRUCTBLIP,
    "llava": LLAVA,
    "flamingo": FLAMINGO,
    "idefics": IDEFICS,
    "kosmos-1": KOSMOS,
    "kosmos-2": KOSMOS,
    "frozen": FROZEN,
    "x-instructblip": X_INSTRUCTBLIP,
    "blip": BLIP,
    "albef": ALBEF,
}
"""model_type -> its family."""
ARCHITECTURES: dict[str, Family] = {hf_blip2_retrieval.ARCHITECTURE: BLIP2_STAGE1}
"""Architectures of a different system than their model_type's."""
FORMS: dict[tuple[str, frozenset[str]], Family] = {("blip-2", frozenset({"vision", "bert"})): BLIP2_STAGE1}
"""(model_type, parts) -> the system that is assembled from these parts, if it differs from the model_type's."""


def named(model_type: object, where: str) -> Family:
    """The family of a model_type. Raises ValueError starting with ``where``, listing the supported systems."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    found = "there is no model_type" if model_type is None else f"model_type is {model_type!r}"
    raise ValueError(f"{where}: {found}; the supported systems are {', '.join(sorted(FAMILIES))}")


def family_of(directory: Path) -> Family:
    """The family of a model directory.

    Raises FileNotFoundError or ValueError naming its config.json, and the supported systems.
    """
    path = directory / "config.json"
    raw = read_json(path)
    if "model_type" not in raw and "mixture" in raw:
        raise ValueError(
            f"{directory}: is the workdir of a run, not a model: `from_run` loads what it trained, and commands take "
            "it as --workdir"
        )
    family = named(raw.get("model_type"), str(path))
    architectures = raw.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if isinstance(name, str) and name in ARCHITECTURES:
            return ARCHITECTURES[name]
    return family


def trainable(name: str, model_type: str | None = None) -> Callable[[tuple, Any], bool]:
    """The NNX filter of a system's named trainable set; without ``model_type``, of the first system with this name.

    Raises ValueError for an unknown name or model_type.
    """
    families = FAMILIES.values() if model_type is None else [named(model_type, "trainable")]
    sets = {key: found for family in reversed(list(families)) for key, found in family.trainable_sets.items()}
    return path_filter(prefixes(name, sets))


def read_config(directory: Path) -> SystemConfig:
    """The configuration of a model directory's system. Raises as `family_of` does, or naming file and field."""
    return family_of(directory).read_config(directory / "config.json")


def export(
    out: str | Path,
    source: Path,
    config: SystemConfig,
    trained: Mapping[str, Tensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    added: bool = False,
    card: str = "",
) -> list[Written]:
    """Write the model directory ``source`` to ``out`` with its trained tensors replaced; see `convert.export.export`.

    ``card``: the text of its README.md; "" writes none.
    """
    family = family_of(source)
    return export_directory(
        out,
        source,
        trained,
        family.rules_for(source, config),
        family.ignored(config),
        max_shard_bytes=max_shard_bytes,
        added=added,
        describe=lambda directory: family.describe(directory, config),
        card=card,
    )


def merged(source: Path, config: SystemConfig, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``trained`` with its adapters merged into the tensors of ``source``; see `convert.adapter.merged`."""
    return adapter.merged(trained, open_shards(source), config.lora.scale if isinstance(config, Adapts) else 1.0)


def export_adapter(
    out: str | Path, source: Path, config: SystemConfig, trained: Mapping[str, Tensor], base: str, card: str = ""
) -> list[Written]:
    """Write ``trained`` as an adapter of the model ``base``, whose directory is ``source``; see
    `convert.adapter.export`.

    Raises ValueError if it contains no adapter.
    """
    family = family_of(source)
    if not isinstance(config, Adapts) or not any(map(adapter.is_adapter, trained)):
        sets = [name for name, prefixes in family.trainable_sets.items() if ADAPTERS in prefixes]
        raise ValueError(
            f"this run trained no adapters; only the sets {', '.join(sets)} have them; export the whole model instead"
        )
    names = kept(family.rules_for(source, config), family.ignored(config), open_shards(source).shapes)
    return adapter.export(out, source, trained, names, config.lora, base, family.modules, card)


def assemble(
    out: str | Path,
    model_type: str,
    parts: Mapping[str, Path],
    *,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    link: bool = True,
    **choices: str | int,
) -> list[Written]:
    """Write ``out``, completely or not at all: a model directory of a system, assembled from parts of other models.

    Args:
      out: a directory that does not exist yet, or is empty.
      model_type: the system.
      parts: part -> its directory; one of the combinations in `convert.ingredients.SYSTEMS`.
      seed: seed of all newly drawn tensors.
      max_shard_bytes: largest size of a weight file, unless one tensor is larger.
      choices: system-specific: ``projector`` of llava ("mlp", "linear"), ``task`` of systems with several forms,
        ``queries`` of a new blip-2, ``queries`` and ``every`` of flamingo, ``queries`` and ``frames`` of
        x-instructblip.
      link: hard-link weight files whose tensors are all unchanged, instead of copying them.

    Returns the weight files. Raises ValueError for parts that do not form such a model, and FileNotFoundError,
    ValueError or OSError naming the directory and what is wrong with it.
    """
    ingredients.check(model_type, parts)
    family = FORMS.get((model_type, frozenset(parts)), FAMILIES[model_type])
    make = family.draft
    assert make is not None
    check_free(Path(out), *parts.values())
    return _written(out, family, make(model_type, parts, seed, **choices), max_shard_bytes, link)


def _written(out: str | Path, family: Family, draft: Draft, max_shard_bytes: int, link: bool) -> list[Written]:
    return engine.assemble(
        Path(out),
        draft,
        family.read_config,
        family.rules,
        family.ignored,
        family.without_rule,
        max_shard_bytes=max_shard_bytes,
        link=link,
    )


def from_original(
    out: str | Path,
    file: Path,
    tensors: Tensors,
    bert: Path,
    *,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[list[Written], list[str]]:
    """Write ``out``, completely or not at all: the complete model in a file of a system's authors, as a directory.

    Args:
      out: a directory that does not exist yet, or is empty.
      file: the file, for errors; ``tensors`` are those in it.
      bert: BERT's directory, which provides the tokenizer and sizes.
      seed: seed of tensors that the file lacks.
      max_shard_bytes: largest size of a weight file, unless one tensor is larger.

    Returns the weight files and the names of the tensors that were skipped. Raises ValueError for a file of an unknown
    system, and a single ValueError that lists the tensors that do not fit.
    """
    check_free(Path(out), file, bert)
    for family in {id(family): family for family in FAMILIES.values()}.values():
        if (found := family.original(file, tensors, bert, seed)) is not None:
            return _written(out, family, found[0], max_shard_bytes, False), found[1]
    some = ", ".join(sorted(tensors)[:3])
    raise ValueError(
        f"{file}: its tensors ({some} ...) are not a complete model of a supported original project; one of LAVIS's "
        "files with only trained parts needs --model instead of --bert"
    )


def with_replaced(
    out: str | Path,
    file: Path,
    tensors: Tensors,
    source: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[list[Written], int, list[str]]:
    """Write ``out``, completely or not at all: the model directory ``source`` with its trained parts replaced by the
    ``tensors`` in a ``file`` of its system's authors.

    Returns the weight files, the number of tensors used, and the names of those that were skipped. Raises a single
    ValueError that lists the tensors that do not fit.
    """
    family = family_of(source)
    if family.replaced is None:
        raise ValueError(
            f"{source}: {file} cannot replace parts of it; that is for InstructBLIP, X-InstructBLIP and BLIP-2's first "
            "stage"
        )
    config, trained, skipped = family.replaced(file, tensors, source)
    return export(out, source, config, trained, max_shard_bytes=max_shard_bytes, added=True), len(trained), skipped


def rewritten(
    out: str | Path, source: Path, tensors: Tensors, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[Written]:
    """Write ``out``, completely or not at all: the directory ``source`` with these ``tensors`` as its weights.

    Raises a single ValueError that lists the tensors that do not fit its config.json.
    """
    check_free(Path(out), source)
    family = family_of(source)
    config = family.read_config(source / "config.json")
    rules = {path: rule.spelled(tensors) for path, rule in family.rules(config).items()}
    names = kept(rules, family.ignored(config), tensors)
    shapes = {name: tensors[name].shape for name in names}
    types = {name: CODES[tensors[name].dtype] for name in names}
    engine.check_fits(config, rules, Shards(source, {}, shapes, types), family.without_rule(config))
    with new_directory(Path(out), sum(tensors[name].nbytes for name in names)) as directory:
        copy_files(source, directory)
        return write_shards(directory, ((name, tensors[name]) for name in names), max_shard_bytes)
