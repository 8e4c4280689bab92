"""Every field of a run can be overridden on every shipped configuration, and on one that states next to nothing."""

import ast
import dataclasses
import inspect
import math
import re
import runpy
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import pytest
import toys
from absl import flags
from ml_collections import ConfigDict, config_flags

from instructblip_jax.command_lines import run_flags
from instructblip_jax.commands import plan
from instructblip_jax.mesh import make_mesh
from instructblip_jax.plan import chips, report
from instructblip_jax.run.check import check
from instructblip_jax.run.config import FREE, GroupConfig, RunConfig, resolve

CONFIGS = sorted((toys.ROOT / "configs").glob("*.py"))
DIGITS = str(toys.ROOT / "configs" / "digits.py")
REPLICATED = {"trained": "fsdp", "vit": "replicated"}
WEIGHTS = {"caption": 5.0, "describe": 2.0}
"""Those of configs/digits.py."""
BARE = """
from ml_collections import ConfigDict

def get_config():
    mixture, optim = {"sets": ["a"]}, {"clip_norm": 1}
    return ConfigDict({"model": "M", "steps": 3, "batch_size": 2, "mixture": mixture, "optim": optim})
"""
MAPPINGS: dict[str, tuple[str, str, Any]] = {
    "layout": ("llm", "sequence", "sequence"),
    "system": ("instruct_qformer", "False", False),
    "optim.rates": ("new_set", "2.5", 2.5),
    "mixture.weights": ("new_set", "2.5", 2.5),
    "mixture.caps": ("new_set", "7", 7),
    "evaluation.settings": ("new_set.metric", "cider", {"metric": "cider"}),
}
"""Field -> an entry that no file has, as it is written, and its value."""


def variants(path: Path) -> list[str]:
    module = runpy.run_path(str(path))
    named = [*module.get("VARIANTS", module.get("SETS", ())), *module.get("MODELS", ())]
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
    if kind is bool:
        return not value
    if kind in (int, float):
        return kind(2 * abs(value) + 3)
    if kind is str:
        return f"other {value}"
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)[-1]
    assert typing.get_origin(kind) is tuple, path
    item = typing.get_args(kind)[0]
    if typing.get_origin(item) is Literal:
        return typing.get_args(item)
    return (17, 19) if item is int else ("x:train", "y")


def at(run: RunConfig, path: str) -> Any:
    """The field or entry at a path such as "optim.clip_norm" or "layout.llm"; None for an entry that is not there."""
    value: Any = run
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
    return value


@pytest.fixture
def parsed():
    """Reads a command line as the commands that take --config do."""
    before = set(flags.FLAGS)

    def forget() -> None:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()

    def read(*argv: str) -> RunConfig:
        forget()
        run_flags.define_config(argv)
        flags.FLAGS(["instructblip", *argv])
        run_flags.check_config(())
        return resolve(flags.FLAGS.config)

    yield read
    forget()


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
        if field == "mixture.groups":  # their entries have several fields; see below
            wanted[field] = value
        elif typing.get_origin(kind) is Mapping:
            entry, written, content = MAPPINGS[field]
            wanted[field] = value | {entry.partition(".")[0]: content}
            argv.append(f"--config.{field}.{entry}={written}")
        else:
            wanted[field] = other(field, kind, value)
            argv.append(f"--config.{field}={wanted[field]}")
    assert len(wanted) >= 44
    assert {field: value for field, _, value in leaves(RunConfig, parsed(*argv))} == wanted


def test_groups_are_overridden_field_by_field(parsed, tmp_path):
    path = tmp_path / "groups.py"
    text = BARE.replace('{"sets": ["a"]}', '{"groups": {"x": {"sets": ["a"], "batch_size": 2}}}')
    path.write_text(text)
    of = "--config.mixture.groups"
    run = parsed(
        f"--config={path}", f"{of}.x.weight=2", f"{of}.x.pictures=1,5", f"{of}.y.sets=b,c", f"{of}.y.batch_size=4"
    )
    assert run.mixture.groups == {
        "x": GroupConfig(("a",), 2, 2.0, pictures=(1, 5)),
        "y": GroupConfig(("b", "c"), 4),
    }


def test_an_override_leaves_all_other_fields_alone(parsed):
    run = parsed(
        f"--config={DIGITS}", "--config.optim.spike_factor=3", "--config.int8", "--config.mixture.weights.count=2"
    )
    plain = resolve(runpy.run_path(DIGITS)["get_config"]())
    assert run == dataclasses.replace(
        plain,
        int8=True,
        optim=dataclasses.replace(plain.optim, spike_factor=3.0),
        mixture=dataclasses.replace(plain.mixture, weights=WEIGHTS | {"count": 2.0}),
    )
    assert config_flags.get_override_values(flags.FLAGS["config"])["optim.spike_factor"] == 3.0


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        (["--config.mixture.sets=own,gqa:val"], "mixture.sets", ("own", "gqa:val")),
        (["--config.mixture.sets=own"], "mixture.sets", ("own",)),
        (["--config.mixture.sets=own", "--config.mixture.sets=gqa:val"], "mixture.sets", ("own", "gqa:val")),
        (["--config.mixture.sets=['own', 'gqa:val']"], "mixture.sets", ("own", "gqa:val")),
        (["--config.evaluation.held_out="], "evaluation.held_out", ()),
        (["--config.evaluation.held_out=()"], "evaluation.held_out", ()),
        (["--config.data.instruction_lengths=32,64"], "data.instruction_lengths", (32, 64)),
        (["--config.data.instruction_lengths=(32, 64)"], "data.instruction_lengths", (32, 64)),
        (["--config.data.instruction_lengths=32"], "data.instruction_lengths", (32,)),
        (["--config.int8"], "int8", True),
        (["--config.int8=false"], "int8", False),
        (["--config.int8=w8a8"], "int8", "w8a8"),
        (["--config.evaluation.blind=False"], "evaluation.blind", False),
        (["--noconfig.evaluation.blind"], "evaluation.blind", False),
        (["--config.steps", "17"], "steps", 17),
        (["--config.optim.clip_norm=2"], "optim.clip_norm", 2.0),
        (
            ["--config.mixture.weights['gqa:val']=2"],
            "mixture.weights",
            {"caption": 5.0, "describe": 2.0, "gqa:val": 2.0},
        ),
        (['--config.mixture.weights["my-set"]=2'], "mixture.weights", {"caption": 5.0, "describe": 2.0, "my-set": 2.0}),
        (["--config.mixture.weights={'caption': 3}"], "mixture.weights", {"caption": 3.0}),
        (["--config.layout.llm=tensor"], "layout", {"llm": "tensor"}),
        (["--config.layout.trained=fsdp", "--config.layout.vit=replicated"], "layout", REPLICATED),
        (["--config.system.instruct_qformer=false"], "system", {"instruct_qformer": False}),
        (["--noconfig.system.instruct_qformer"], "system", {"instruct_qformer": False}),
        (["--config.system.momentum=0.995"], "system", {"momentum": 0.995}),
        (["--config.evaluation.settings.count.prompt=None"], "evaluation.settings", {"count": {"prompt": None}}),
    ],
    ids=str,
)
def test_the_ways_to_write_a_value(overrides, field, value, parsed):
    run = parsed(f"--config={DIGITS}", *overrides)
    assert {path: found for path, _, found in leaves(RunConfig, run)}[field] == value


# A field that became an option of the system is accepted in its old place, with a warning.


@pytest.mark.parametrize(
    ("overrides", "system"),
    [
        (["--config.instruct_qformer=False"], {"instruct_qformer": False}),
        (["--config.instruct_qformer=false"], {"instruct_qformer": False}),
        (["--noconfig.instruct_qformer"], {"instruct_qformer": False}),
        (["--config.instruct_qformer=True"], {}),
        (["--config.instruct_qformer"], {}),
        (
            ["--config.instruct_qformer=False", "--config.system.momentum=0.5"],
            {"momentum": 0.5, "instruct_qformer": False},
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ["", ":no_instruction_in_qformer"])
def test_the_old_override_of_a_system_option(overrides, system, variant, parsed):
    with pytest.warns(FutureWarning, match=r"config\.instruct_qformer is now config\.system\.instruct_qformer"):
        assert parsed(f"--config={DIGITS}{variant}", *overrides).system == system


@pytest.mark.parametrize(
    "stated",
    [
        "config.instruct_qformer = False",
        "with config.unlocked(): config.update_from_flattened_dict({'instruct_qformer': False})",
        "config.instruct_qformer = config_dict.placeholder(bool); config.instruct_qformer = False",
    ],
)
def test_the_old_field_in_a_file(stated, parsed, tmp_path):
    (tmp_path / "own.py").write_text(OWN.format(stated))
    with pytest.warns(FutureWarning, match="is now config"):
        assert parsed(f"--config={tmp_path / 'own.py'}").system == {"instruct_qformer": False}


def test_an_unknown_layout_is_refused_with_the_choices(cli):
    run = cli("evaluate", f"--config={DIGITS}", "--workdir=/nowhere", "--config.layout.llm=split")
    assert run.code == 2
    assert "layout.llm 'split' is unknown; expected one of replicated, fsdp, tensor, sequence, sharded" in run.err


OWN = """
from ml_collections import ConfigDict, FrozenConfigDict, config_dict

def get_config():
    config = ConfigDict({{"model": "M", "steps": 3, "batch_size": 2, "mixture": {{"sets": ("a",)}}}})
    config.evaluation = {{"batch_size": config.get_ref("batch_size")}}
    {}
    return config
"""
JUDGED = "config.evaluation.settings = {'a': {'prompt': None, 'length_penalty': 1}}"


def settings(**fields: Any) -> dict[str, Any]:
    return {"evaluation.settings": {"a": fields}}


@pytest.mark.parametrize(
    ("stated", "override", "wanted"),
    [
        ("config.mixture.weights = {'a': 1}", "mixture.weights.a=2.5", {"mixture.weights": {"a": 2.5}}),
        (JUDGED, "evaluation.settings.a.prompt=x", settings(prompt="x", length_penalty=1)),
        (JUDGED, "evaluation.settings.a.length_penalty=0.5", settings(prompt=None, length_penalty=0.5)),
        ("", "batch_size=6", {"batch_size": 6, "evaluation.batch_size": 6}),
        ("config.log_every = config_dict.placeholder(int)", "log_every=6", {"log_every": 6}),
        ("config.log_every = config_dict.required_placeholder(int)", "log_every=6", {"log_every": 6}),
        ("del config.steps", "steps=6", {"steps": 6}),
        ("del config.mixture", "mixture.sets=a,b", {"mixture.sets": ("a", "b")}),
        ("config.lock()", "remat=dots", {"remat": "dots"}),
        ("config = FrozenConfigDict(config)", "remat=dots", {"remat": "dots"}),
    ],
    ids=str,
)
def test_files_of_the_users_own(stated, override, wanted, parsed, tmp_path):
    (tmp_path / "own.py").write_text(OWN.format(stated))
    run = parsed(f"--config={tmp_path / 'own.py'}", f"--config.{override}")
    found = {path: value for path, _, value in leaves(RunConfig, run)}
    assert {path: found[path] for path in wanted} == wanted


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5e:2x4"])
@pytest.mark.parametrize("config", SHIPPED, ids=lambda config: config.rpartition("/")[2])
def test_what_plan_advises_can_be_typed(config, topology, parsed):
    """Each advice on its own, on the file that was planned: the run has it, and `train` takes it on that slice."""
    run, there = parsed(f"--config={config}"), chips.parse(topology)
    if run.batch_size % (there.devices * run.optim.accumulation):
        return  # one for fewer chips, whose batch these do not divide
    timed, _ = plan.settings(run, (32, 16))
    full = dict.fromkeys(("frozen", "temporaries"), 9 * there.chip.usable)
    advice = report.remedies(report.Plan(timed, there, fits=False, peak=2 * there.chip.usable, bytes=full, flops=1.0))
    typed = re.findall(r"(?:--config\.[\w.]+=\w+ ?)+", " ".join(advice))
    rows = math.gcd(*(group.rows for group in timed.groups)) or run.batch_size
    several = rows > there.devices * run.optim.accumulation
    # Rows that depend on one another must stay in one piece.
    assert ("--config.optim.accumulation=" in " ".join(typed)) == (several and not timed.model.in_batch)
    for overrides in map(str.split, typed):
        advised = parsed(f"--config={config}", *overrides)
        for path, _, value in (override.removeprefix("--config.").partition("=") for override in overrides):
            assert str(at(advised, path)) == value != str(at(run, path))
        check(advised, make_mesh(*dataclasses.astuple(advised.mesh), devices=jax.devices()[: there.devices]))


def test_a_file_that_wants_a_field_given(parsed, tmp_path):
    (tmp_path / "own.py").write_text(
        OWN.format("config.optim = {'clip_norm': config_dict.required_placeholder(float)}")
    )
    with pytest.raises(ValueError, match=r"own\.py: config\.optim\.clip_norm is missing; give it on the command line"):
        parsed(f"--config={tmp_path / 'own.py'}")


def test_overrides_in_a_file_of_flags(parsed, tmp_path):
    (tmp_path / "flags").write_text("--config.mixture.weights.count=2\n--config.int8\n")
    run = parsed(f"--config={DIGITS}", f"--flagfile={tmp_path / 'flags'}")
    assert (run.mixture.weights, run.int8) == (WEIGHTS | {"count": 2.0}, True)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "--config.optim.learning_rat=1",
            "--config.optim.learning_rat: the configuration has no such field; optim.learning_rate?",
        ),
        ("--config.remats=layer", "--config.remats: the configuration has no such field; remat?"),
        ("--config.mixture.weight.count=1", "--config.mixture.weight.count: the configuration has no such field"),
        (
            "--config.learning_rate=1",
            "--config.learning_rate: the configuration has no such field; optim.learning_rate?",
        ),
        ("--config.steps.more=1", "--config.steps.more: the configuration has no such field; steps?"),
        ("--noconfig.int", "--noconfig.int: the configuration has no such field; int8?"),
        (
            "--config.optim={'clip_norm': 1}",
            "--config.optim: has several fields, to be set one by one: learning_rate, ",
        ),
        ("--config.mixture.weights.gqa:val=2", "in quotes: \"--config.mixture.weights['gqa:val']=2\""),
        ("--config.evaluation.held_in[0]=count", "--config.evaluation.held_in[0]: not a field"),
        ("--config.steps=many", "flag --config.steps=many: invalid literal for int() with base 10: 'many'"),
        ("--config.mixture.weights.count=often", "flag --config.mixture.weights.count=often: could not convert string"),
        ("--config.mixture.caps.count=2.5", "flag --config.mixture.caps.count=2.5: invalid literal for int()"),
        ("--config.evaluation.settings.count=3", "flag --config.evaluation.settings.count=3: Failed to parse '3'"),
        ("--flagfile=/nowhere/flags", "Unable to open flagfile: [Errno 2] No such file or directory: '/nowhere/flags'"),
        ("--config.evaluation.blind=perhaps", "flag --config.evaluation.blind=perhaps: true or false is needed"),
        ("--config.int8=perhaps", "digits.py: config.int8 is 'perhaps', not False, True or w8a8"),
        ("--config.int8=1", "digits.py: config.int8 is 1, not False, True or w8a8"),
        ("--config=configs/digits.py", "--config is given more than once"),
        (
            "--config.data.instruction_lengths=32.5,64",
            "digits.py: config.data.instruction_lengths is '32.5', not of type",
        ),
        ("--config.optim.clip_norm=nan", "digits.py: config.optim.clip_norm is nan, not a finite number"),
    ],
)
def test_what_is_no_field_and_no_value_is_refused(override, told, cli):
    run = cli("evaluate", f"--config={DIGITS}", "--workdir=/nowhere", override)
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
