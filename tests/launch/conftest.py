"""The launch scripts in a copy of their own, among stand-ins for whatever they would call."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Where the package's Python would be: says what it was given, and what to do stands in its last argument.
PYTHON = """#!/usr/bin/env bash
[ "$1" != -c ] || { echo 4321; exit; }  # asked for a free port
shift 2  # -m instructblip_jax
trap 'echo "saved $*"; exit 143' TERM
echo "process ${JAX_PROCESS_ID:-alone} at ${JAX_COORDINATOR_ADDRESS:-nowhere} gpus ${CUDA_VISIBLE_DEVICES:-none}: $*"
touch "$HOME/begun.${JAX_PROCESS_ID:-}"
until [ "$(find "$HOME" -maxdepth 1 -name 'begun.*' | wc -l)" -ge "${JAX_NUM_PROCESSES:-1}" ]; do sleep 0.05; done
for word in "$@"; do
    case $word in
        end=*) exit "${word#end=}" ;;
        end[0-9]=*) [ "${word:3:1}" != "$JAX_PROCESS_ID" ] || exit "${word#*=}" ;;
        lose[0-9]) [ "${word:4}" = "$JAX_PROCESS_ID" ] || exit 75 ;; # the others find that one gone
        kill[0-9]) [ "${word:4}" != "$JAX_PROCESS_ID" ] || kill -KILL $$ ;;
        stay) while :; do sleep 0.1; done ;;
    esac
done
"""
CLOUD = ("gcloud", "kubectl", "docker", "sbatch", "srun", "scontrol", "squeue", "nvidia-smi", "sudo", "apt-get")
BROWSER = ("chromium", "chromedriver")


@dataclasses.dataclass
class Checkout:
    """A copy of launch/ in ``root``; programs in ``root / "bin"`` come first on the path."""

    root: Path

    def program(self, name: str, text: str) -> None:
        """Put a shell script on the path; it logs its command line."""
        path = self.root / "bin" / name
        log = f'(printf "%s" "{name}"; printf " %s" "$@"; echo) >>"{self.root}/calls"\n'
        path.write_text(f"#!/usr/bin/env bash\n{log}{text}\n")
        path.chmod(0o755)

    def calls(self) -> list[str]:
        """The command lines of the programs that were called, and forget them."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def environment(self, **settings: object) -> dict[str, str]:
        plain = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JAX_", "SLURM_", "CUDA_", "GLIBC_", "EXTRA", "CONSTRAINTS"))
        }
        own = {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "INSTALL": "0", "VENV": str(self.root / "venv")}
        return plain | own | {"HOME": str(self.root)} | {name: str(value) for name, value in settings.items()}

    @contextlib.contextmanager
    def start(self, script: str, *args: object, **settings: object) -> Iterator[subprocess.Popen[str]]:
        """Begin a script from an unrelated directory, in a session of its own, which ends where a test fails."""
        command = ["bash", str(self.root / "launch" / script), *map(str, args)]
        own = {"cwd": "/", "env": self.environment(**settings), "start_new_session": True}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **own, **pipes) as process:
            try:
                yield process
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise

    def run(self, script: str, *args: object, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        with self.start(script, *args, **settings) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(script, process.returncode, out, err)


@pytest.fixture
def checkout(tmp_path):
    """Every program of a cloud fails when called; the environment's Python and the browser are stand-ins."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "bin").mkdir()
    made = Checkout(tmp_path)
    for name in CLOUD:
        made.program(name, "exit 97")
    for name in BROWSER:
        made.program(name, "")
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return made
