"""The configuration to copy, and the digits as plain files."""

import hashlib
import json
import runpy

import pytest
import toys
from own_files import drafts, read

from instructblip_jax.datasets.digits.plain import export, main
from instructblip_jax.recipes.public import PUBLIC
from instructblip_jax.run.config import resolve
from instructblip_jax.systems.trainable import prefixes


def test_the_configuration_has_the_fields_of_all_others():
    config = runpy.run_path(str(toys.ROOT / "configs" / "own_data.py"))["get_config"]()
    digits = runpy.run_path(str(toys.ROOT / "configs" / "digits.py"))["get_config"]()
    assert set(digits) <= set(config)
    run = resolve(config)
    assert run.model in PUBLIC
    assert (run.mixture.sets, run.evaluation.held_in, run.evaluation.held_out) == (("own",), ("own",), ())
    sets = PUBLIC[run.model].trainable_sets
    assert prefixes(run.trainable, sets) == sets["qformer"]
    assert run.optim.warmup_steps < run.steps


def test_plain_digits_are_the_same_every_time_and_can_be_read(tmp_path):
    assert export(tmp_path / "a", count=20) == {"train": 40, "validation": 4, "test": 10}
    export(tmp_path / "b", count=20)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in "ab"]
    sums = [[(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in each] for each in files]
    assert sums[0] == sums[1]
    assert len(sums[0]) == 20 + 2 + 5 + 3
    found = read(tmp_path / "a")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 40, "validation": 4, "test": 10}
    colour, place = found["test"][0], found["test"][1]
    assert colour.media == place.media
    assert colour.media[0].path.is_file()
    assert place.record.answers[0].startswith(("top-", "bottom-"))


@pytest.mark.parametrize("ask", ["count", "caption", "ask"])
def test_the_digits_sets_as_plain_files(tmp_path, ask):
    assert export(tmp_path, ask, 6)["train"] == 6
    for draft in drafts(tmp_path):
        assert draft.record.instruction
        assert draft.record.answers


def test_the_command_line(tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--ask", "presence", "--count", "4"]) == 0
    assert "4 questions in train.jsonl" in capsys.readouterr().out
    line = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    assert line["answer"] in ("yes", "no")
    assert main([str(tmp_path / "out"), "--ask", "riddles"]) == 2
    assert "--ask riddles" in capsys.readouterr().err
