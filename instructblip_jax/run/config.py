"""A run's ConfigDict -> frozen dataclasses. An unknown field is an error, a field of the wrong type another.

The dataclasses hold the defaults, and nothing else does: a configuration file states what differs.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ml_collections import ConfigDict, config_dict

from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.train.optimizer import OptimConfig


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 is the rest."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class MixtureConfig:
    """Which sets are trained on, and how often: probability in proportion to size ** exponent * weights[set].

    The paper's exponent is 0.5; 0 draws every set as often as any other, 1 every record. ``caps``: set -> the size that
    it counts as at most, where one would drown the others. A set is a name, or with another split than "train"
    NAME:SPLIT.
    """

    sets: tuple[str, ...]
    exponent: float = 0.5
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    caps: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where prepared sets lie, and how their records become batches.

    ``instruction_lengths``, ``response_lengths``: the static text lengths, ascending; a batch takes the smallest that
    holds it. ``shapes``: if not 0, so many pairs of lengths are chosen instead that fit the mixture's own, up to the
    largest of those; every pair is a program to compile, and fewer are more padding. ``window``: batches that are
    sorted by length together; with many shapes it must be many, too. Records with longer texts are passed over, and
    counted. ``templates``: "instructions", or "plain" for the slot values without a word of instruction (the paper's
    multitask comparison, figure 4). ``blank_image``: train without seeing. ``features``: a directory that all hosts
    share, where the frozen tower's image features are kept, computed once for all runs; "" computes them in every step.
    """

    directory: str = "data"
    instruction_lengths: tuple[int, ...] = (32, 64, 128)
    response_lengths: tuple[int, ...] = (16, 64, 256)
    shapes: int = 0
    window: int = 4
    templates: str = "instructions"
    blank_image: bool = False
    features: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The suite: sets seen in training and sets that were not, and how they are answered.

    ``settings``: set -> fields of `evals.suite.EvalSpec` that are to be others than its own ("split", "prompt",
    "num_beams" ...). ``blind``: judge a second time with all pictures blanked. ``max_new_tokens``: of sets that
    `evals.suite.SUITE` does not know.
    """

    held_in: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    batch_size: int = 64
    max_new_tokens: int = 64
    blind: bool = True
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: the fields that all configurations share (contract.md) and those of its parts.

    ``epochs``: instead of ``steps`` (which is 0 then), as many as the sets together have records, so often.
    ``validate_every``: steps from one validation loss to the next, of the sets that have a split "validation" (-1: ten
    times a run; 0: never). ``log_examples``: write down which records each step was trained on, in W/examples.
    ``image_size``: pixels along a side of the pictures, if not as many as the checkpoint's (0); see docs/finetuning.md.
    """

    model: str
    steps: int
    batch_size: int
    mixture: MixtureConfig
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    mesh: MeshConfig = MeshConfig()
    layout: Layout = SHARDED
    log_every: int = 50
    checkpoint_every: int = 1000
    checkpoints_kept: int = 3
    seed: int = 0
    dtype: str = "bfloat16"
    trainable: str = "qformer"
    instruct_qformer: bool = True
    remat: str = "none"
    int8: bool = False
    validate_every: int = -1
    log_examples: bool = False
    epochs: float = 0.0
    image_size: int = 0


FREE = (
    *("log_every", "checkpoint_every", "checkpoints_kept", "validate_every", "mesh", "layout", "evaluation", "remat"),
    *("log_examples", "data.features"),
)
"""Fields that a resumed run may change: none of them changes what is learned, beyond rounding."""


def complete(config: ConfigDict) -> ConfigDict:
    """Add the fields that ``config`` leaves out, with their defaults, so that every one of them can be overridden."""
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
        elif name not in section and field.default is not dataclasses.MISSING:
            section[name] = field.default
        elif name not in section and field.default_factory is not dataclasses.MISSING:
            section[name] = ConfigDict(field.default_factory())


def make_room(config: ConfigDict, path: Sequence[str]) -> None:
    """Prepare the field at ``path`` for an override: ("optim", "clip_norm"), or ("mixture", "weights", SET).

    An override is read as the type that stands there. Where that is not the field's (a file may write 1 for 1.0, and a
    list for a tuple), or where a mapping has no such entry yet, an empty place of the field's type is put there.
    Raises ValueError where no field can be, with the nearest.
    """
    hint: Any = RunConfig
    section: Any = config
    with config.unlocked():
        for depth, name in enumerate(path, 1):
            fields = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
            if name not in fields and typing.get_origin(hint) is not Mapping:
                near = get_close_matches(".".join(path), list(_paths(RunConfig)), n=1)
                raise ValueError("the configuration has no such field" + (f"; {near[0]}?" if near else ""))
            if not isinstance(section, ConfigDict):
                raise ValueError(f"the file gives config.{'.'.join(path[: depth - 1])} as {section!r}")
            hint = fields[name] if fields else typing.get_args(hint)[1]
            if dataclasses.is_dataclass(hint) and depth == len(path):
                raise ValueError(f"has several fields, to be set one by one: {', '.join(typing.get_type_hints(hint))}")
            if not dataclasses.is_dataclass(hint):
                kind = ConfigDict if typing.get_origin(hint) is Mapping else typing.get_origin(hint) or hint
                _put_type(section, name, object if kind is Any else kind)
            if depth < len(path):
                section = section[name]


def _put_type(section: ConfigDict, name: str, kind: type) -> None:
    if name in section and (_is_required(section, name) or section.get_type(name) is not kind):
        del section[name]
    if name not in section:
        section[name] = ConfigDict() if kind is ConfigDict else config_dict.placeholder(kind)


def _is_required(section: ConfigDict, name: str) -> bool:
    """True if the file leaves the value to the command line, by ml_collections' `required_placeholder`."""
    try:
        section[name]
    except config_dict.RequiredValueError:
        return True
    return False


def _paths(cls: type, where: str = "") -> Iterator[str]:
    """The paths of all fields that hold no others."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _paths(typing.cast(type, hint), f"{where}{name}.")
        else:
            yield where + name


def resolve(config: ConfigDict) -> RunConfig:
    """Check and freeze a configuration. Raises ValueError naming the field."""
    return _build(RunConfig, _values(config, "config"), "config")


def _values(section: ConfigDict, where: str) -> dict[str, Any]:
    for name in section:
        if _is_required(section, name):
            raise ValueError(f"{where}.{name} is to be given on the command line: --{where}.{name}=…")
    return {
        name: _values(value, f"{where}.{name}") if isinstance(value, ConfigDict) else value
        for name, value in section.items()
    }


def saved(fields: Mapping[str, Any], where: str) -> RunConfig:
    """A run as some version of this project wrote it; a field that came later takes its default.

    Raises ValueError naming ``where`` and the field that this version does not know or cannot do without.
    """
    try:
        return _build(RunConfig, fields, "the run of this version")
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
    if hint is Any:  # whoever uses it knows its fields
        return value
    origin = typing.get_origin(hint)
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
    """The fields in which two runs differ, each with both values; `FREE` ones do not count."""
    return _differing(dataclasses.asdict(old), dataclasses.asdict(new), "")


def goes_further(old: RunConfig, new: RunConfig) -> bool:
    """True if ``new`` is ``old`` with more ``steps`` or more ``epochs``, and nothing else differs."""
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
        elif a != b:
            found.append(f"{path} (there {a!r}, here {b!r})")
    return found
