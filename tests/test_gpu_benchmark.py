"""benchmarks/gpu.sh, tried at its smallest scale."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--scale", "tiny", "--json", str(out), *arguments]
    return subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)


def test_measures_training_and_decoding_beside_their_plan(tmp_path):
    done = run(tmp_path / "out.json", "--only", "train-xl", "decode-7b-int8", "--seconds", "2000")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["part"], row["rows"]) for row in rows] == [
        ("train-xl", 2),
        ("decode-7b-int8", 1),
        ("decode-7b-int8", 2),
    ]
    for row in rows:
        assert 0 < row["measured"] < row["bound"]  # a CPU is slower than the h100 that is planned
        assert f"| {row['part']} | {row['rows']} | {row['measured']:.1f} {row['unit']} |" in done.stdout
    assert 0 < rows[0]["mfu"] < 1
    assert 0 < rows[0]["loss"] < 20


def test_a_slow_part_is_reported_not_waited_for(tmp_path):
    done = run(tmp_path / "out.json", "--only", "decode-xl", "train-7b", "--seconds", "2")
    assert done.returncode == 1
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["part"] for row in rows] == ["decode-xl", "train-7b"]
    assert all(row["error"].startswith("given up after") for row in rows)
    assert done.stdout.count("given up after 1 s") == 2
