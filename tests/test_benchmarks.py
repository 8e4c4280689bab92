"""The benchmark against KerasHub where KerasHub is not installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_peer_that_is_not_installed_is_skipped_with_a_reason(tmp_path):
    command = [sys.executable, "benchmarks/kerashub.py", "--scale", "tiny", "--rounds", "1", "--environment", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("KerasHub: skipped, because ")
    assert "--make" in done.stdout
