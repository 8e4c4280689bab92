"""The house rules: who imports whom (ARCHITECTURE.md), how long a file is, what it may not be called."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "instructblip_jax"

ROOMS: dict[str, set[str]] = {
    "files": set(),
    "pixels": set(),
    "hub": {"files"},
    "embedded": set(),
    "sharding": set(),
    "mesh": {"sharding"},
    "distributed": set(),
    "digests": set(),
    "compile_cache": set(),
    "printing": set(),
    "models": {"sharding"},
    "objectives": set(),
    "systems": {"models", "objectives", "pixels", "sharding"},
    "processors": {"files", "pixels"},
    "convert": {"systems", "models", "mesh", "distributed", "files", "processors.image", "processors.tokenizer"},
    "family": {"convert", "systems.protocol", "processors.base"},
    "families": {"convert", "family", "systems", "processors", "files"},
    "decoding": {"systems.protocol", "objectives.lm", "processors.base"},
    "train": {"systems.protocol", "systems.trainable", "objectives.term", "sharding", "files"},
    "model": {
        *("convert", "decoding", "distributed", "families", "hub", "mesh", "objectives.term", "pixels"),
        *("sharding", "systems.bank", "systems.build", "systems.protocol"),
    },
    "losses": {"convert", "model", "objectives.term"},
    "processor": {"families", "hub", "processors.base"},
    "comparing": {"model", "processors.base"},
    "drawing": set(),
    "looking": {"drawing", "model", "processors.base", "systems.maps", "systems.protocol"},
    "data": {"processors.base", "processors.content", "processors.image", "files"},
    "datasets": {
        *("data", "files", "processors.audio", "processors.base", "processors.containers", "processors.content"),
        *("processors.image", "processors.points", "processors.video"),
    },
    "features": {"data", "digests", "distributed", "mesh", "model", "pixels", "processors.base", "systems.build"},
    "validation": {"data", "mesh", "model", "objectives.term", "processors.base", "systems.build"},
    "run": {
        *("convert.shards", "data", "datasets", "digests", "distributed", "families", "files", "hub", "mesh", "model"),
        *("processor", "processors.augment", "processors.base", "processors.fast_resize", "sharding", "systems"),
        "train",
    },
    "recipes": {"run.config", "systems", "models"},
    "recipe": {"recipes.instructblip"},
    "config": {"run.config"},
    "evals": {
        *("comparing", "data", "datasets", "decoding", "distributed", "mesh", "model", "processors.base"),
        *("processors.image", "run.evaluation", "run.workdir", "systems.bank", "systems.protocol"),
    },
    "capfilt": {
        *("comparing", "data", "datasets", "decoding", "distributed", "processors.base", "processors.content"),
        *("processors.pairs", "systems.protocol"),
    },
    "asking": {
        *("convert", "data", "datasets", "decoding", "family", "files", "mesh", "model", "processors.base"),
        *("processors.tokenizer", "systems.build", "systems.texts"),
    },
    "plan": {
        *("decoding", "mesh", "models.layers", "sharding", "systems.build", "systems.protocol", "systems.trainable"),
        "train",
    },
    "serving": {
        *("comparing", "datasets.digits", "decoding", "looking", "model", "processors.base", "processors.image"),
        *("systems.build", "systems.protocol"),
    },
    "command_lines": {
        "convert.ingredients",
        "datasets",
        "decoding.options",
        "evals.metrics",
        "files",
        "plan.chips",
        "run.config",
    },
}
"""Room -> what of ours it may import, besides itself; "systems.protocol" is that file alone. Commands import all.

The rooms stand from the bottom up: each imports only rooms that are listed before it."""
DOORS = {"__init__", "__main__"}  # the package's own: the public names, and the console script
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
BANNED_MODULES = {"torch", "torchvision", "tensorflow"}
READS_PTH = ["commands", "convert"]
"""The one file that may import torch, in the function that reads a .pth file: there is no other reader of them."""
NO_JAX = {"processors", "data", "datasets"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
OURS = sorted(
    path
    for folder in ("instructblip_jax", "configs", "tools", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


def module_of(path: Path) -> list[str]:
    """instructblip_jax/models/vit.py -> ["models", "vit"]."""
    return list(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at any depth; `from a import b` gives "a.b"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(importer: list[str], imported: list[str]) -> bool:
    """Whether module ``importer`` may import ``imported``, both without the package's name."""
    room, target = importer[0], imported[0]
    if room == target:
        return room != "commands" or imported[1:2] == importer[1:2]  # no command imports another
    if room == "commands" or (importer[-1] in DOORS and len(importer) == 1):
        return True
    return any(imported[: len(rule)] == rule for rule in (name.split(".") for name in ROOMS[room]))


def test_every_room_is_in_the_table():
    assert {module_of(path)[0] for path in SOURCES} - DOORS - {"commands"} <= ROOMS.keys()


def test_no_room_imports_one_that_stands_above_it():
    names = list(ROOMS)
    for place, room in enumerate(names):
        imported = {rule.split(".")[0] for rule in ROOMS[room]}
        assert imported <= set(names[:place]), f"{room} imports {imported - set(names[:place])}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(module_of(path)))
def test_a_room_imports_only_what_it_may(path):
    importer = module_of(path)
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "instructblip_jax":
            assert rest, f"{path} imports the package's door"
            assert allowed(importer, rest), f"{'.'.join(importer)} must not import {'.'.join(rest)}"
        excepted = importer == READS_PTH and first == "torch"
        assert first not in BANNED_MODULES or excepted, f"{path} imports {first}"
        if first in ("jax", "flax", "optax"):
            assert importer[0] not in NO_JAX, f"{path}: {importer[0]} runs without {first}"


def test_torch_is_imported_only_where_a_pth_file_is_read():
    """In one function: the command runs without torch when it is not asked for such a file."""
    tree = ast.parse(PACKAGE.joinpath(*READS_PTH).with_suffix(".py").read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]

    def torch_imports(root: ast.AST) -> int:
        return sum(isinstance(node, ast.Import) and node.names[0].name == "torch" for node in ast.walk(root))

    assert torch_imports(tree) == 1
    assert [node.name for node in functions if torch_imports(node)] == ["_read_pth"]


def test_the_rules_refuse_what_they_should():
    assert not allowed(["models", "towers", "vit"], ["systems", "prefix"])
    assert not allowed(["train", "step"], ["systems", "instructblip"])
    assert allowed(["train", "step"], ["systems", "protocol", "Batch"])
    assert not allowed(["data", "loader"], ["systems", "protocol"])
    assert not allowed(["commands", "train"], ["commands", "evaluate"])
    assert not allowed(["models", "__init__"], ["systems"])


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_well_named(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in BANNED_NAMES


def test_nothing_of_ours_needs_torch_or_tensorflow_to_be_imported():
    """Neither do the libraries under it pull them in (checked in a process of its own)."""
    code = (
        "import sys, instructblip_jax, instructblip_jax.train.step, instructblip_jax.train.loop, "
        "instructblip_jax.run.checkpoint, instructblip_jax.commands.convert; "
        f"sys.exit(', '.join(sorted({BANNED_MODULES!r} & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def documentation(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring, of attributes and constants too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value.strip()


def test_docstrings_begin_with_their_subject():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in SOURCES
        for line, text in documentation(ast.parse(path.read_text(encoding="utf-8")))
        if text.split(" ")[0] in ("Of", "What", "Whether", "Which")
    ]
    assert not wrong
