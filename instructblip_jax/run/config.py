"""A run's ConfigDict -> frozen dataclasses. Unknown fields and values of the wrong type are errors.

Defaults are only in the dataclasses; a configuration file has the fields that differ.
"""

import dataclasses
import math
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from ml_collections import ConfigDict, config_dict

from instructblip_jax.data.documents import DocumentsConfig
from instructblip_jax.processors.augment import AugmentConfig
from instructblip_jax.run.evaluation import EvaluationConfig
from instructblip_jax.sharding import Layout
from instructblip_jax.systems.former_fields import FORMER_FIELDS
from instructblip_jax.systems.protocol import Int8
from instructblip_jax.train.optimizer import OptimConfig


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; an axis of -1 uses the remaining devices."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """A group of sets with its own batch in every step.

    Attributes:
      sets: as in `MixtureConfig`.
      batch_size: rows of the group's batch.
      weight: of the group's loss.
      instruction_lengths, response_lengths, pictures: of its batches; () means those of `DataConfig`.
    """

    sets: tuple[str, ...]
    batch_size: int
    weight: float = 1.0
    instruction_lengths: tuple[int, ...] = ()
    response_lengths: tuple[int, ...] = ()
    pictures: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """The sets to train on. Each is drawn in proportion to size ** exponent * weights[set].

    An exponent of 0.5 is the paper's; 0 draws all sets equally often, 1 all records. ``caps``: set -> the largest size
    it counts as, for a set that would dominate the others. A set is NAME, or NAME:SPLIT for a split other than "train".

    With ``groups`` instead of ``sets``, every step has a batch of each group, and its loss is the weighted sum of the
    groups' mean losses. Sets are drawn within their group.
    """

    sets: tuple[str, ...] = ()
    exponent: float = 0.5
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    caps: Mapping[str, int] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, GroupConfig] = dataclasses.field(default_factory=dict)

    @property
    def all_sets(self) -> tuple[str, ...]:
        """The sets of the mixture, or of its groups in order."""
        return self.sets or tuple(name for group in self.groups.values() for name in group.sets)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The location of the prepared datasets, and how their records become batches.

    Attributes:
      directory: the directory of the prepared datasets.
      instruction_lengths: static text lengths in tokens, ascending; a batch uses the smallest that fits its texts.
        Records with longer texts are skipped and counted.
      response_lengths: the same for responses.
      shapes: if not 0, this many (instruction, response) length pairs are fitted to the mixture instead, up to the
        largest lengths above. Each pair is a program to compile; fewer pairs mean more padding.
      window: number of batches whose records are sorted by length together; many shapes need a large window.
      templates: "instructions"; "senses" for X-InstructBLIP's, one list per modality; "bare" for unchanged questions
        and sentences, as in ALBEF and BLIP; "captions" for captions without an instruction, or "continued_captions" for
        captions split in two before a random word, as in BLIP-2's stages; or "plain" for the digits world's bare slot
        values (the paper's multitask comparison, figure 4).
      blank_image: train with all images blanked.
      resize: "exact", or "fast" for training images that are resized several times faster with small deviations; see
        docs/configuration.md. Validation and evaluation are always exact.
      pictures: static numbers of images per row, ascending, for systems that read several: a batch has the smallest
        number that fits its rows, so rows with smaller numbers share it. () makes separate batches for each number that
        occurs.
      augment: augmentation of training images, see `AugmentConfig`.
      documents: the part of a document that a visit reads, see `DocumentsConfig`.
      features: a directory shared by all hosts for the frozen tower's features, so that they are computed once for all
        runs; "" computes them in every step.
    """

    directory: str = "data"
    instruction_lengths: tuple[int, ...] = (32, 64, 128)
    response_lengths: tuple[int, ...] = (16, 64, 256)
    shapes: int = 0
    window: int = 4
    templates: str = "instructions"
    blank_image: bool = False
    features: str = ""
    resize: str = "exact"
    pictures: tuple[int, ...] = ()
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    documents: DocumentsConfig = dataclasses.field(default_factory=DocumentsConfig)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: its own fields and those of its parts. docs/configuration.md has a line for each.

    Attributes:
      steps: optimizer steps, or 0 if ``epochs`` is given.
      epochs: length of the run in passes over the mixture's total number of records, instead of ``steps``.
      layout: part of the system, or "trained" for everything else -> a name of `sharding.LAYOUTS`.
      trainable: a name of the system's trainable sets; "" is the default set.
      system: system-specific options, checked by its `SystemConfig.configured`.
      image_size: pixels along a side of the pictures; 0 is the checkpoint's own size.
      scan_layers: in training, run stacks of frozen layers as scans over one array each; False separates them (see
        `Model.from_pretrained`), which takes longer to compile and avoids a copy of each layer on GPUs.
      validate_every: steps between validation losses of the sets with a split "validation"; -1 validates ten times per
        run, 0 never.
      log_examples: write the ids of the records of each step to W/examples.
      wandb: a Weights & Biases project that also gets the run's metrics; "" is none.
    """

    model: str
    steps: int
    batch_size: int
    mixture: MixtureConfig
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    mesh: MeshConfig = MeshConfig()
    layout: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_every: int = 50
    checkpoint_every: int = 1000
    checkpoints_kept: int = 3
    seed: int = 0
    dtype: str = "bfloat16"
    trainable: str = ""
    system: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remat: str = "none"
    int8: Int8 = False
    scan_layers: bool = True
    validate_every: int = -1
    log_examples: bool = False
    epochs: float = 0.0
    image_size: int = 0
    wandb: str = ""

    def __post_init__(self) -> None:
        Layout(**self.layout)  # raises ValueError for an unknown layout

    def system_options(self) -> dict[str, Any]:
        """Keywords of `SystemConfig.configured` and `Processor.from_pretrained`."""
        return {**self.system, **({"image_size": self.image_size} if self.image_size else {})}

    def model_options(self, **changes: Any) -> dict[str, Any]:
        """Keywords of `Model.from_pretrained`, with ``changes`` instead of the run's own."""
        options = {
            "dtype": self.dtype,
            "trainable": self.trainable or None,
            "layout": Layout(**self.layout),
            "remat": self.remat,
            "int8": self.int8,
            "scan_layers": self.scan_layers,
        }
        return {**options, **self.system_options(), **changes}


FREE = (
    *("log_every", "checkpoint_every", "checkpoints_kept", "validate_every", "mesh", "layout", "evaluation", "remat"),
    "scan_layers",
    *("log_examples", "data.features", "wandb"),
)
"""Fields that a resumed run may change, because they do not affect training beyond rounding."""


def complete(config: ConfigDict) -> ConfigDict:
    """Add the fields that ``config`` omits, with their defaults, so that each of them can be overridden."""
    with config.unlocked():
        _fill(RunConfig, config)
    return config


def _fill(cls: type, section: ConfigDict) -> None:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, name = hints[field.name], field.name
        if dataclasses.is_dataclass(hint):
            if name not in section:
                section[name] = ConfigDict()
            if isinstance(section[name], ConfigDict):
                _fill(typing.cast(type, hint), section[name])
        elif name not in section and typing.get_origin(hint) is Literal:  # values of several types
            section[name] = config_dict.FieldReference(field.default, field_type=object)
        elif name not in section and field.default is not dataclasses.MISSING:
            section[name] = field.default
        elif name not in section and field.default_factory is not dataclasses.MISSING:
            section[name] = ConfigDict(field.default_factory())


def make_room(config: ConfigDict, path: Sequence[str]) -> None:
    """Prepare the field at ``path`` for an override: ("optim", "clip_norm"), or ("mixture", "weights", SET).

    ml_collections parses an override as the type of the current value. If that is not the field's type (a file may
    write 1 for 1.0, or a list for a tuple), or if a mapping has no such entry yet, the value is replaced by a
    placeholder of the field's type. Raises ValueError, with the nearest field, if there is no field of that path.
    """
    if len(path) == 1 and path[0] in FORMER_FIELDS:
        with config.unlocked():
            _put_type(config, path[0], type(FORMER_FIELDS[path[0]]))
        return
    hint: Any = RunConfig
    section: Any = config
    with config.unlocked():
        for depth, name in enumerate(path, 1):
            fields = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
            if name not in fields and hint is not Any and typing.get_origin(hint) is not Mapping:
                near = get_close_matches(".".join(path), list(_paths(RunConfig)), n=1)
                raise ValueError("the configuration has no such field" + (f"; {near[0]}?" if near else ""))
            if not isinstance(section, ConfigDict):
                raise ValueError(f"the file gives config.{'.'.join(path[: depth - 1])} as {section!r}")
            # An option of a system may be a mapping itself, whose entries only the system knows.
            hint = fields[name] if fields else Any if hint is Any else typing.get_args(hint)[1]
            if dataclasses.is_dataclass(hint) and depth == len(path):
                raise ValueError(f"has several fields, to be set one by one: {', '.join(typing.get_type_hints(hint))}")
            if not dataclasses.is_dataclass(hint):
                mapping = typing.get_origin(hint) is Mapping or (hint is Any and depth < len(path))
                kind = ConfigDict if mapping else typing.get_origin(hint) or hint
                _put_type(section, name, object if kind in (Any, Literal) else kind)
            if depth < len(path):
                if name not in section:  # a new entry of several fields
                    section[name] = ConfigDict()
                section = section[name]


def _put_type(section: ConfigDict, name: str, kind: type) -> None:
    if name in section and (_is_required(section, name) or section.get_type(name) is not kind):
        del section[name]
    if name not in section:
        section[name] = ConfigDict() if kind is ConfigDict else config_dict.placeholder(kind)


def _is_required(section: ConfigDict, name: str) -> bool:
    """True if the file leaves the value to the command line (ml_collections' `required_placeholder`)."""
    try:
        section[name]
    except config_dict.RequiredValueError:
        return True
    return False


def _paths(cls: type, where: str = "") -> Iterator[str]:
    """Paths of all leaf fields."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _paths(typing.cast(type, hint), f"{where}{name}.")
        else:
            yield where + name


def resolve(config: ConfigDict) -> RunConfig:
    """Check and freeze a configuration. Raises ValueError naming the field."""
    values = _values(config, "config")
    for name in FORMER_FIELDS.keys() & values.keys():
        warnings.warn(f"config.{name} is now config.system.{name}", FutureWarning, stacklevel=2)
    return _build(RunConfig, _moved(values), "config")


def _moved(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run with `FORMER_FIELDS` moved to the options of its system, where a default may be omitted."""
    moved = {**values}
    for name in FORMER_FIELDS.keys() & values.keys():
        value = moved.pop(name)
        options = {key: other for key, other in moved.get("system", {}).items() if key != name}
        moved["system"] = options if value == FORMER_FIELDS[name] else {**options, name: value}
    return moved


def _values(section: ConfigDict, where: str) -> dict[str, Any]:
    for name in section:
        if _is_required(section, name):
            raise ValueError(f"{where}.{name} is missing; give it on the command line: --{where}.{name}=…")
    return {
        name: _values(value, f"{where}.{name}") if isinstance(value, ConfigDict) else value
        for name, value in section.items()
    }


def saved(fields: Mapping[str, Any], where: str) -> RunConfig:
    """A run written by this version of the project or an earlier one; fields added since then have their defaults.

    Raises ValueError naming ``where`` and the field that is unknown to this version, or missing.
    """
    try:
        return _build(RunConfig, _moved(fields), "the run of this version")
    except ValueError as error:
        raise ValueError(
            f"{where}: not written by `instructblip train`, or by another version of it: {error}. "
            "Use the version that wrote it, or another --workdir"
        ) from error


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        meant = [name + "".join(f" ({near}?)" for near in get_close_matches(name, hints, n=1)) for name in unknown]
        raise ValueError(f"{where} has no field {', '.join(meant)}; it has {', '.join(hints)}")
    required = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(values))
    if missing:
        raise ValueError(f"{where} lacks the field {', '.join(missing)}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:  # checked where the value is used; a saved run is JSON and has lists for tuples
        if isinstance(value, Mapping):
            return {key: _convert(Any, item, f"{where}.{key}") for key, item in value.items()}
        return tuple(value) if isinstance(value, list) else value
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices or type(value) not in map(type, choices):
            raise ValueError(f"{where} is {value!r}, not {', '.join(map(str, choices[:-1]))} or {choices[-1]}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _build(typing.cast(type, hint), value, where)
    if origin is tuple and isinstance(value, (tuple, list)):
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if isinstance(value, Mapping) and not isinstance(hint, type):
        return {key: _convert(typing.get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, not a finite number")
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = hint.__name__ if isinstance(hint, type) else hint
    raise ValueError(f"{where} is {value!r}, not of type {expected}")


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """The fields in which two runs differ, each with both values, except `FREE` ones.

    A trainable set that only one of them names is not counted either: the other has the system's default set, which may
    be the same, and a checkpoint of other parameters is refused when it is restored.
    """
    return _differing(dataclasses.asdict(old), dataclasses.asdict(new), "")


def goes_further(old: RunConfig, new: RunConfig) -> bool:
    """True if ``new`` equals ``old`` except for more ``steps`` or ``epochs``."""
    more = new.steps > old.steps > 0 or new.epochs > old.epochs > 0
    return more and not differences(dataclasses.replace(old, steps=new.steps, epochs=new.epochs), new)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[str]:
    found = []
    for name in sorted(set(old) | set(new)):
        a, b, path = old.get(name), new.get(name), f"{where}{name}"
        if path in FREE:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differing(a, b, f"{path}.")
        elif a != b and not (path == "trainable" and "" in (a, b)):
            found.append(f"{path} (there {a!r}, here {b!r})")
    return found
