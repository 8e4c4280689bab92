"""`prepare` and `ablate` without a training run: what they write, and what they leave alone."""

import dataclasses
import json
import runpy
import statistics
from pathlib import Path

import pytest
import toys

from instructblip_jax.data import prepared
from instructblip_jax.datasets.digits import prepare
from instructblip_jax.datasets.digits.tasks import HELD_OUT, TASKS
from instructblip_jax.run.config import resolve
from instructblip_jax.trials import series

DIGITS = toys.ROOT / "configs" / "digits.py"


def test_prepare_writes_all_digits_sets_reports_them_and_leaves_them(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "split_size", lambda name, split: 0 if (name in HELD_OUT and split == "train") else 2)
    out, report = tmp_path / "sets", tmp_path / "report.json"
    result = cli("prepare", "digits", f"--out={out}", f"--json={report}")
    assert result.code == 0, result.err
    splits = json.loads(report.read_text())["splits"]
    want = {f"{name}/{split}" for name in TASKS for split in ("validation", "test")}
    want |= {f"{name}/train" for name in TASKS if name not in HELD_OUT}
    assert splits.keys() == want
    assert all(row == {"written": 2, "skipped": 0, "reasons": {}} for row in splits.values())
    assert all(name in result.out for name in splits)
    assert all(len(prepared.open_set(out, *key.split("/"))) == 2 for key in splits)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = cli("prepare", "digits", f"--out={out}", f"--json={report}")
    assert (again.code, again.err) == (0, "")
    assert json.loads(report.read_text())["splits"] == splits
    assert again.out.count("there already") == len(splits)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


SCORES = {"held_in_mean": 0.9, "held_out_mean": 0.6, "held_out_mean_blind": 0.2}
VARIANTS = ("digits", "no_instruction_in_qformer", "uniform_sampling", "multitask", "blind")


def finish(root, scores: dict[str, list[dict]]) -> None:
    """As if every run had been made with the configuration as it is."""
    get_config = runpy.run_path(str(DIGITS))["get_config"]
    for name, runs in scores.items():
        for seed, evaluation in enumerate(runs):
            workdir = root / name / f"seed-{seed}"
            workdir.mkdir(parents=True)
            config = get_config("" if name == "digits" else name)
            config.seed = seed
            files = {
                "config.json": dataclasses.asdict(resolve(config)),
                "train.json": {"steps": config.steps, "losses": [], "weights_sha256": "", "seconds": 1.0},
                "evaluation.json": {"step": config.steps} | evaluation,
            }
            for file, content in files.items():
                (workdir / file).write_text(json.dumps(content))


@pytest.fixture
def commands(monkeypatch) -> list[tuple[str, str]]:
    """The commands that were called, with their variant; none is run. That finished runs return at once: test_train."""
    called: list[tuple[str, str]] = []

    def call(command):
        (workdir,) = (Path(arg.partition("=")[2]) for arg in command if arg.startswith("--workdir="))
        called.append((command[3], workdir.parent.name))
        return 0

    monkeypatch.setattr(series, "call", call)
    return called


def test_ablate_compares_the_variants_over_seeds(cli, tmp_path, commands):
    """Mean and sample deviation; finished runs are not judged again."""
    pytest.importorskip("matplotlib")
    shifts = {name: n / 100 for n, name in enumerate(VARIANTS)}
    scores = {
        name: [{column: value - shift + 0.02 * seed for column, value in SCORES.items()} for seed in range(2)]
        for name, shift in shifts.items()
    }
    finish(tmp_path, scores)
    report = tmp_path / "report.json"
    result = cli("ablate", f"--config={DIGITS}", f"--workdir={tmp_path}", f"--json={report}", "--seeds=0,1")
    assert result.code == 0, result.err
    table = json.loads(report.read_text())
    assert table == json.loads((tmp_path / "ablations.json").read_text())
    assert set(table) == set(VARIANTS)
    for name, row in table.items():
        for column in SCORES:
            values = [run[column] for run in scores[name]]
            assert row[column]["mean"] == pytest.approx(statistics.mean(values))
            assert row[column]["deviation"] == pytest.approx(0.02 / 2**0.5)
            assert row[column]["seeds"] == 2
    text = (tmp_path / "ablations.md").read_text()
    assert text in result.out
    assert commands == [("train", name) for name in VARIANTS for _ in range(2)]
    assert "| digits | 91.0 ± 1.4 | 61.0 ± 1.4 | 21.0 ± 1.4 | 2 |" in text
    assert (tmp_path / "ablations.png").read_bytes().startswith(b"\x89PNG")


def test_ablate_stops_at_a_run_that_fails_and_keeps_the_others(cli, tmp_path):
    finish(tmp_path, {"digits": [SCORES]})
    result = cli("ablate", f"--config={DIGITS}", f"--workdir={tmp_path}", "--seeds=0", "--", "--config.mesh.data=77")
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert "instructblip ablate: train of " in last
    assert "seed 0 failed" in last
    assert "mesh.data=77" in result.err
    kept = json.loads((tmp_path / "digits" / "seed-0" / "evaluation.json").read_text())
    assert SCORES.items() <= kept.items()
    assert not (tmp_path / "ablations.json").exists()


def test_ablate_needs_a_configuration_with_variants(cli, world, tmp_path):
    result = cli("ablate", f"--config={world / 'tiny.py'}", f"--workdir={tmp_path}")
    assert result.code == 1
    assert "tiny.py: has no VARIANTS" in result.err
    assert not list(tmp_path.iterdir())


def test_a_suite_without_held_out_sets_can_be_compared_too(cli, tmp_path, commands):
    pytest.importorskip("matplotlib")
    finish(tmp_path, {name: [SCORES | {"held_out_mean": None, "held_out_mean_blind": None}] for name in VARIANTS})
    result = cli("ablate", f"--config={DIGITS}", f"--workdir={tmp_path}", "--seeds=0")
    assert result.code == 0, result.err
    assert "90.0" in (tmp_path / "ablations.md").read_text()


def test_runs_made_with_other_overrides_are_not_taken_for_these(cli, tmp_path):
    """A comparison begun with few steps to see how it goes is not what a later one with all steps reports."""
    finish(tmp_path, {name: [SCORES] for name in VARIANTS})
    result = cli("ablate", f"--config={DIGITS}", f"--workdir={tmp_path}", "--seeds=0", "--", "--config.steps=7")
    assert result.code == 1
    assert "steps" in result.err


def test_a_run_that_was_trained_on_is_evaluated_anew(cli, tmp_path, commands):
    pytest.importorskip("matplotlib")
    finish(tmp_path, {name: [SCORES] for name in VARIANTS})
    (tmp_path / "blind" / "seed-0" / "train.json").write_text(json.dumps({"steps": 5000}))
    assert cli("ablate", f"--config={DIGITS}", f"--workdir={tmp_path}", "--seeds=0").code == 0
    assert commands == [("train", name) for name in VARIANTS] + [("evaluate", "blind")]
