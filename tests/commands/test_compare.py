"""`compare`: systems trained and evaluated one after the other, their table, and what is refused before any of it."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import toys

from instructblip_jax.trials import configurations, series

CONFIG = """
from ml_collections import ConfigDict

SYSTEMS = ("writes", "compares")

def get_config(variant="writes"):
    if variant not in SYSTEMS:
        raise ValueError(f"two.py has no variant {{variant!r}}")
    config = ConfigDict({{
        "model": "{root}/" + variant,
        "steps": 3,
        "batch_size": 4,
        "log_every": 1,
        "checkpoint_every": 10,
        "validate_every": 0,
        "dtype": "float32",
        "mixture": {{"sets": ("caption",)}},
        "data": {{"directory": "{root}/sets", "instruction_lengths": (40,), "response_lengths": (24,)}},
        "evaluation": {{"held_in": ("caption",), "batch_size": 8, "max_new_tokens": 3, "blind": False}},
    }})
    if variant == "writes":
        config.evaluation.held_out = ("count",)
    else:
        config.evaluation.settings = {{"caption": {{"mode": "retrieval", "rerank": 2}}}}
    return config
"""


@pytest.fixture(scope="module")
def two(mini, tmp_path_factory):
    """A file of two systems, one that writes and one that compares, beside their models and sets."""
    root = tmp_path_factory.mktemp("two")
    for name, kind in (("writes", "blip-2"), ("compares", "blip-2-stage-1")):
        shutil.copytree(mini(kind), root / name)
    toys.write_sets(root / "sets", {"caption": 24, "count": 0})
    (root / "two.py").write_text(CONFIG.format(root=root))
    return root / "two.py"


@pytest.fixture(scope="module")
def compared(process, two, tmp_path_factory):
    """The directory of a finished comparison, and what the command printed."""
    workdir = tmp_path_factory.mktemp("compared")
    flags = (f"--config={two}", f"--workdir={workdir}", f"--json={workdir / 'told.json'}")
    result = process("compare", *flags, "--seeds=0")
    assert result.code == 0, result.err
    return workdir, result.out


@pytest.fixture
def again(compared, two, cli, monkeypatch, tmp_path):
    """Repeats the command in a copy of the finished comparison, after a change of it; no run is made. Returns the
    commands that were called, and what came out."""
    workdir = tmp_path / "again"
    shutil.copytree(compared[0], workdir)

    def run(seeds: str, change=lambda workdir: None, made=lambda workdir: None):
        called = []

        def call(command):
            (own,) = (Path(arg.partition("=")[2]) for arg in command if arg.startswith("--workdir="))
            called.append((command[3], own.relative_to(workdir).as_posix()))
            if command[3] == "evaluate":
                made(own)
            return 0

        change(workdir)
        monkeypatch.setattr(series, "call", call)
        return called, cli("compare", f"--config={two}", f"--workdir={workdir}", f"--seeds={seeds}"), workdir

    return run


def told(workdir) -> dict:
    return json.loads((workdir / "compare.json").read_text())["systems"]


def test_one_table_has_costs_shared_parts_and_scores(compared):
    workdir, said = compared
    assert json.loads((workdir / "told.json").read_text())["systems"] == told(workdir)
    writes, compares = (told(workdir)[name] for name in ("writes", "compares"))
    for name, one in (("writes", writes), ("compares", compares)):
        assert (one["seeds"], one["samples"]) == ([0], 12)
        assert f"{one['trained_parameters']:,} trained and" in said  # as `train` says
        assert one["flops_per_sample"] > 6 * one["trained_parameters"]  # each is read in several places of a row
        assert set(one["sets"]) == set(evaluation(workdir / name / "seed-0")["sets"])
        for own, score in one["sets"].items():
            assert score["value"] == pytest.approx(evaluation(workdir / name / "seed-0")["sets"][own]["value"])
            assert score["low"] <= score["value"] <= score["high"]
    # Their weights are drawn by name: the towers are equal, and only one has a language model.
    assert writes["shared"] == {"tower": "A", "language": "A"}
    assert compares["shared"] == {"tower": "A", "language": ""}
    assert writes["sets"]["count"]["group"] == "held_out"
    assert (compares["sets"]["caption"]["group"], compares["sets"]["caption"]["metric"]) == ("retrieval", "recall")
    assert compares["lacks"]["held_out"] == "its configuration names no such set"  # its decoder would write
    assert writes["lacks"]["retrieval"] == "does not compare pictures with texts"
    table = (workdir / "compare.md").read_text()
    assert table in said
    head, *lines = (line.split("|")[1:-1] for line in table.splitlines()[:4] if "---" not in line)
    cells = {row[0].strip(): {name.strip(): x.strip() for name, x in zip(head, row, strict=True)} for row in lines}
    assert cells["writes"]["retrieval (1)"] == "—¹"
    assert cells["compares"]["held-in (1)"] == cells["compares"]["held-out (1)"] == "—²"
    assert "\n¹ does not compare pictures with texts.\n² its configuration names no such set." in table
    assert (workdir / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "run 1 of 2: writes, seed 0: " in said
    assert "run 2 of 2: compares, seed 0: " in said


def evaluation(workdir) -> dict:
    return json.loads((workdir / "evaluation.json").read_text())


def test_what_is_missing_is_made_and_the_rest_left(again, compared):
    """As after a kill between training and evaluation. `train` decides itself that nothing is left to do."""
    kept = (compared[0] / "writes" / "seed-0" / "evaluation.json").read_text()
    called, result, workdir = again(
        "0",
        lambda workdir: (workdir / "writes" / "seed-0" / "evaluation.json").unlink(),
        lambda own: (own / "evaluation.json").write_text(kept),
    )
    assert result.code == 0, result.err
    assert called == [("train", "writes/seed-0"), ("evaluate", "writes/seed-0"), ("train", "compares/seed-0")]
    assert told(workdir) == told(compared[0])
    assert "run 2 of 2: compares, seed 0: " in result.out
    assert "(about 0 min left)" in result.out


def test_scores_are_means_over_seeds_with_intervals_over_both(again, compared):
    """The second run is the first one with every answer to `count` right."""

    def second(workdir):
        for name in ("writes", "compares"):
            shutil.copytree(workdir / name / "seed-0", workdir / name / "seed-1")
        answered = workdir / "writes" / "seed-1" / "predictions" / "count.jsonl"
        lines = [json.loads(line) for line in answered.read_text().splitlines()]
        right = [json.dumps(line | {"prediction": line["answers"][0]}) for line in lines]
        answered.write_text("\n".join(right) + "\n")

    called, result, workdir = again("0,1", second)
    assert result.code == 0, result.err
    assert [own for _, own in called] == [f"{name}/seed-{n}" for n in range(2) for name in ("writes", "compares")]
    one, before = told(workdir)["writes"], told(compared[0])["writes"]
    (first,) = before["sets"]["count"]["values"]
    score = one["sets"]["count"]
    assert (one["seeds"], score["values"]) == ([0, 1], [first, 1.0])
    assert score["value"] == one["means"]["held_out"]["value"] == pytest.approx((first + 1) / 2)
    assert score["high"] == 1.0  # the second run, drawn twice
    assert score["low"] <= first
    assert one["sets"]["caption"]["value"] == before["sets"]["caption"]["value"]


def test_sigterm_reaches_the_run_and_ends_the_series(cli, two, monkeypatch, tmp_path):
    """The run saves, and the series ends with its status; a run in the next one would begin before the machine goes."""
    script = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    assert series.call([sys.executable, "-c", script]) == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    called = []
    monkeypatch.setattr(series, "call", lambda line: called.append(line) or series.STOPPED)
    with pytest.raises(SystemExit) as stopped:
        cli("compare", f"--config={two}", f"--workdir={tmp_path / 'W'}", "--seeds=0,1")
    assert (stopped.value.code, len(called)) == (143, 1)


def test_systems_over_different_towers_are_named(two, cli, monkeypatch, mini, tmp_path):
    """The comparison is made all the same, and the table and a note say which are not the same."""
    root = tmp_path / "other"
    shutil.copytree(two.parent, root)
    shutil.rmtree(root / "writes")
    shutil.copytree(mini("llava"), root / "writes")
    (root / "two.py").write_text(CONFIG.format(root=root))
    monkeypatch.setattr(series, "call", lambda _: 1)
    result = cli("compare", f"--config={root / 'two.py'}", f"--workdir={tmp_path / 'W'}", "--seeds=0")
    assert result.code == 1
    assert "note: tower: not the same in all systems: A in writes; B in compares" in result.out
    assert result.err.splitlines()[-1].endswith(
        "train of writes, seed 0 failed (see above); the finished runs are kept"
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("nowhere.py", "nowhere.py: no such configuration file"),
        ("{two}:other", "two.py has no variant 'other'"),
        ("{two},{two}:writes", "two.py:writes more than once"),
        ("{broken}", "broken.py: NameError: name 'nothing' is not defined"),
        ("{typing}", "config has no field stepz (steps?)"),
        ("{empty}", "has no get_config()"),
    ],
)
def test_a_wrong_configuration_is_one_line(cli, two, tmp_path, config, words):
    files = {
        "broken": "nothing",
        "typing": "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'stepz': 1})\n",
        "empty": "",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.py").write_text(content)
    given = config.format(two=two, **{name: tmp_path / f"{name}.py" for name in files})
    result = cli("compare", f"--config={given}", f"--workdir={tmp_path / 'W'}")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert words in line
    assert not (tmp_path / "W").exists()


def test_systems_are_called_by_variant_or_file_and_by_both_where_that_is_not_enough(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("def get_config(variant=''): ...")
    a, b = (str(tmp_path / f"{name}.py") for name in ("a", "b"))
    given = [a, f"{a}:x", f"{b}:x", f"{b}:y"]
    assert configurations.systems(given) == dict(zip(("a", "a_x", "b_x", "y"), given, strict=True))
    (tmp_path / "c").mkdir()
    other = tmp_path / "c" / "a.py"
    other.write_text("")
    with pytest.raises(ValueError, match="two files have the same name and variant"):
        configurations.systems([f"{a}:x", f"{other}:x"])


@pytest.mark.parametrize("flag", ["--config.model=x", "--config.trainable=all", "--steps=3"])
def test_overrides_are_for_all_systems(cli, two, tmp_path, flag):
    result = cli("compare", f"--config={two}", f"--workdir={tmp_path}", "--", flag)
    assert result.code == 2
    assert flag in result.err
