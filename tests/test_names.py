"""The rooms that serve every system name none of them: no system, no part of one, no key of one's batches."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructblip_jax import families
from instructblip_jax.systems.instructblip import InstructBlipConfig

PACKAGE = Path(families.__file__).parent
ROOMS = ("train", "decoding", "evals", "plan", "data", "features", "run", "serving")
SYSTEMS = ("instructblip", "instruct_blip", "blip2", "blip-2", "albef", "llava", "flamingo", "kosmos", "frozen_lm")
PARTS = {*InstructBlipConfig.parts, "qformer", "query_tokens", "projector"}
KEYS = {"pixel_values", "image_features", "input_ids", "attention_mask", "labels"}
FORBIDDEN = re.compile(
    "|".join(
        [
            *SYSTEMS,
            *(rf"(?<![a-z]){name}(?![a-z])" for name in sorted(PARTS)),
            *(rf"(?<![a-z_]){name}(?![a-z_])" for name in sorted(KEYS)),
        ]
    )
)
PRODUCT = re.compile(r"`?instructblip (?:[a-z]+)\b|instructblip_jax")
"""The project's own name: in imports, and where a message names one of its commands."""


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every identifier, attribute, keyword and string constant that is no docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)} | {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, (ast.arg, ast.keyword)) and node.arg:
            yield getattr(node, "lineno", 0), node.arg
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((node.lineno, f"{getattr(node, 'module', '')}.{alias.name}") for alias in node.names)


def offences(source: str) -> list[str]:
    """Lines of a file that name a system, a part or a batch key."""
    found = []
    for line, text in names(ast.parse(source)):
        if match := FORBIDDEN.search(PRODUCT.sub("", text).lower()):
            found.append(f"line {line}: {match[0]!r} in {text[:60]!r}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_of_all_systems_names_one(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(PACKAGE)): found for path in files if (found := offences(path.read_text()))}
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "x = batch['pixel_values']",
        "x = batch.qformer_input_ids",
        "layout = Layout(vit='fsdp')",
        "from instructblip_jax.systems import instructblip",
        "from instructblip_jax.models.bridges.qformer import QFormer",
        "kind = 'blip-2'",
        "config.llm",
        "def llm_flops(): ...",
    ],
)
def test_the_search_finds_what_it_should(source):
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "'''Reads `pixel_values` of an InstructBLIP.'''",
        "raise ValueError('`instructblip prepare NAME` writes more')",
        "from instructblip_jax import files",
        "vitality = 1",
    ],
)
def test_and_nothing_else(source):
    assert not offences(source)
