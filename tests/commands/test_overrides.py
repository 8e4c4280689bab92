"""Every field of a run can be overridden on every shipped configuration, and on one that states next to nothing."""

import ast
import dataclasses
import inspect
import re
import runpy
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import toys
from absl import flags
from ml_collections import ConfigDict, config_flags

from instructblip_jax import run_flags
from instructblip_jax.config import FREE, RunConfig, resolve

CONFIGS = sorted((toys.ROOT / "configs").glob("*.py"))
BARE = """
from ml_collections import ConfigDict

def get_config():
    mixture, optim = {"sets": ["a"]}, {"clip_norm": 1}
    return ConfigDict({"model": "M", "steps": 3, "batch_size": 2, "mixture": mixture, "optim": optim})
"""
MAPPINGS = {
    "mixture.weights": ("new_set", "2.5", 2.5),
    "mixture.caps": ("new_set", "7", 7),
    "evaluation.settings": ("new_set.metric", "cider", {"metric": "cider"}),
}
"""Field -> an entry that no file has, as it is written, and its value."""


def variants(path: Path) -> list[str]:
    module = runpy.run_path(str(path))
    named = [*module.get("VARIANTS", module.get("SETS", ()))]
    return named if inspect.signature(module["get_config"]).parameters else [""]


SHIPPED = [f"{path}:{variant}".removesuffix(":") for path in CONFIGS for variant in variants(path)]


def leaves(hint: Any, values: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, type, value) of every field of a run that holds no other fields."""
    for name, kind in typing.get_type_hints(hint).items():
        value = getattr(values, name)
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, value, f"{where}{name}.")
        else:
            yield f"{where}{name}", kind, value


def other(path: str, kind: Any, value: Any) -> Any:
    """A value of the field's type that it does not have."""
    if path.startswith("layout."):
        return "tensor" if value != "tensor" else "fsdp"
    if kind is bool:
        return not value
    if kind in (int, float):
        return kind(2 * abs(value) + 3)
    if kind is str:
        return f"other {value}"
    assert typing.get_origin(kind) is tuple, path
    return (17, 19) if typing.get_args(kind)[0] is int else ("x:train", "y")


@pytest.fixture
def parsed():
    """Reads a command line as the commands that take --config do."""
    before = set(flags.FLAGS)

    def read(*argv: str) -> RunConfig:
        run_flags.define_config(argv)
        flags.FLAGS(["instructblip", *argv])
        run_flags.check_config(())
        return resolve(flags.FLAGS.config)

    yield read
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize("config", [*SHIPPED, "bare"], ids=lambda config: config.rpartition("/")[2])
def test_every_field_can_be_overridden(config, parsed, tmp_path):
    if config == "bare":
        config = str(tmp_path / "bare.py")
        Path(config).write_text(BARE)
    path, _, variant = config.partition(":")
    get_config = runpy.run_path(path)["get_config"]
    run = resolve(get_config(variant) if inspect.signature(get_config).parameters else get_config())
    wanted, argv = {}, [f"--config={config}"]
    for field, kind, value in leaves(RunConfig, run):
        if typing.get_origin(kind) is Mapping:
            entry, written, content = MAPPINGS[field]
            wanted[field] = value | {entry.partition(".")[0]: content}
            argv.append(f"--config.{field}.{entry}={written}")
        else:
            wanted[field] = other(field, kind, value)
            argv.append(f"--config.{field}={wanted[field]}")
    assert len(wanted) >= 45
    assert {field: value for field, _, value in leaves(RunConfig, parsed(*argv))} == wanted


def test_an_override_leaves_all_other_fields_alone(parsed):
    digits = str(toys.ROOT / "configs" / "digits.py")
    run = parsed(
        f"--config={digits}", "--config.optim.spike_factor=3", "--config.int8", "--config.mixture.weights.count=2"
    )
    plain = resolve(runpy.run_path(digits)["get_config"]())
    assert run == dataclasses.replace(
        plain,
        int8=True,
        optim=dataclasses.replace(plain.optim, spike_factor=3.0),
        mixture=dataclasses.replace(plain.mixture, weights={"caption": 5.0, "describe": 2.0, "count": 2.0}),
    )
    assert config_flags.get_override_values(flags.FLAGS["config"])["optim.spike_factor"] == 3.0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "--config.optim.learning_rat=1",
            "--config.optim.learning_rat: the configuration has no such field; learning_rate?",
        ),
        ("--config.remats=layer", "--config.remats: the configuration has no such field; remat?"),
        ("--config.mixture.weight.count=1", "--config.mixture.weight.count: the configuration has no such field"),
        ("--config.steps=many", "flag --config.steps=many: invalid literal for int() with base 10: 'many'"),
        ("--config.mixture.weights.count=often", "flag --config.mixture.weights.count=often: could not convert string"),
    ],
)
def test_what_is_no_field_and_no_value_is_refused(override, told, cli):
    run = cli("evaluate", f"--config={toys.ROOT / 'configs' / 'digits.py'}", "--workdir=/nowhere", override)
    assert run.code == 2
    assert told in run.err
    assert run.err.count("\n") == 1


def test_the_page_lists_every_field_with_its_default():
    page = (toys.ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| (?:`(.*?)` )?\| (.*) \|$", page, re.MULTILINE)
    required = {"model": "M", "steps": 1, "batch_size": 1, "mixture": {"sets": ("a",)}}
    fields = {name: value for name, _, value in leaves(RunConfig, resolve(ConfigDict(required)))}
    assert [name for name, *_ in rows] == list(dict.fromkeys(name for name, *_ in rows))
    assert {name for name, *_ in rows} == fields.keys()
    for name, default, meaning in rows:
        if name in (*required, "mixture.sets"):
            assert default == ""
        else:
            assert ast.literal_eval(default) == fields[name], name
        if not name.startswith("evaluation."):
            assert ("*Free*" in meaning) == (name in FREE or name.partition(".")[0] in FREE), name
