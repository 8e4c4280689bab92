"""README's two commands, demo.sh and test.sh: what --dry-run prints, and how they end, without installing anything."""

import os
import sys
from pathlib import Path

import pytest
from test_launch import planned

BROWSER = ("chromium", "chromedriver")
INSTALL_BROWSER = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "chromium-driver"]
DRY = {"INSTALL": "1", "PYTHON": sys.executable}
INSTALL = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
PINNED = ["-c", "launch/constraints.txt"]

# In place of the environment's programs: each says that it was called, and fails where its name is in $FAILS.
PROGRAM = """#!/usr/bin/env bash
echo "ran ${0##*/} $*" >&2
case "${FAILS:-nothing}" in ${0##*/}) exit 9 ;; import) [ "$1" != -c ] || exit 1 ;; esac
"""


@pytest.fixture
def ready(checkout):
    """A checkout whose .venv has stand-ins."""
    (checkout.root / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "ruff", "mypy"):
        path = checkout.root / ".venv" / "bin" / name
        path.write_text(PROGRAM)
        path.chmod(0o755)
    return checkout


def ran(result) -> list[str]:
    """The programs that were called, in their order, with their first word."""
    return [" ".join(line.split()[1:3]) for line in result.stderr.splitlines() if line.startswith("ran ")]


def test_dry_run_of_the_demo(checkout):
    make, install, train, evaluate, scene, answer = planned(checkout.run("demo.sh", "--dry-run", **DRY))
    assert make == [sys.executable, "-m", "venv", ".venv"]
    assert install == [".venv/bin/python", *INSTALL, *PINNED, "-e", ".[demo]"]
    run = ["--config", "configs/digits.py", "--workdir", "runs/digits"]
    assert train == [".venv/bin/instructblip", "train", *run]
    assert evaluate == [".venv/bin/instructblip", "evaluate", *run]
    assert scene[-1] == "runs/digits/scene.png"
    assert answer[-3:] == [  # one word each: as they could be typed
        "list all digits with place and colour",
        "how many digits are there ?",
        "which digit is the largest ?",
    ]
    assert not (checkout.root / ".venv").exists()


def test_dry_run_of_the_chain(checkout):
    """Each stage begins with what the one before it left, and nothing is written."""
    commands = planned(checkout.run("chain.sh", "--dry-run", W="W", SEED=7))
    assert all(command[0] == ".venv/bin/instructblip" for command in commands)
    assert [command[1] for command in commands] == [
        *("assemble", "train", "evaluate", "export"),
        *("assemble", "train", "evaluate", "export"),
        *("assemble", "train", "evaluate"),
    ]
    assets = "instructblip_jax/assets"
    made = [" ".join(command[2:]) for command in commands if command[1] in ("assemble", "export")]
    assert made == [
        f"blip-2 --vision {assets}/digits --bert {assets}/digits_bert --queries 16 --out W/stage1.start",
        "--model W/stage1.start --workdir W/stage1 --out W/stage1.model",
        f"blip-2 --qformer W/stage1.model --language {assets}/digits --out W/stage2.start",
        "--model W/stage2.start --workdir W/stage2 --out W/stage2.model",
        "instructblip --blip2 W/stage2.model --bert W/stage1.model --out W/instructblip.start",
    ]
    for name, file in (
        ("stage1", "digits_blip2_stage1"),
        ("stage2", "digits_blip2_stage2"),
        ("instructblip", "digits"),
    ):
        runs = [command[2:] for command in commands if f"W/{name}" in command and command[1] in ("train", "evaluate")]
        start = f"--config.model=W/{name}.start"
        for words in runs:
            assert words[:6] == ["--config", f"configs/{file}.py", "--workdir", f"W/{name}", start, "--config.seed=7"]
        assert len(runs) == 2
    assert not (checkout.root / "W").exists()


def test_the_chain_asks_for_the_environment_of_the_demo(checkout):
    result = checkout.run("chain.sh")
    assert result.returncode == 2
    assert "bash launch/demo.sh makes it" in result.stderr


def test_dry_run_of_the_tests(checkout):
    make, install, check, lint, form, types, tests = planned(checkout.run("test.sh", "--dry-run", "-k", "a b", **DRY))
    assert make == [sys.executable, "-m", "venv", ".venv"]
    assert install == [".venv/bin/python", *INSTALL, *PINNED, "-e", ".[test]"]
    assert check[:2] == [".venv/bin/python", "-c"]
    assert [lint, form, types] == [
        [".venv/bin/ruff", "check", "."],
        [".venv/bin/ruff", "format", "--check", "."],
        [".venv/bin/mypy"],
    ]
    assert tests[:3] == [".venv/bin/python", "-m", "pytest"]
    assert "--durations=40" in tests
    assert tests[-2:] == ["-k", "a b"]
    assert not (checkout.root / ".venv").exists()


def test_the_newest_releases_have_an_environment_of_their_own_made_anew(checkout):
    (checkout.root / ".venv-newest").mkdir()
    (checkout.root / ".venv-newest" / "pyvenv.cfg").touch()
    remove, make, install, *rest = planned(checkout.run("test.sh", "--newest", "--dry-run", **DRY))
    assert remove == ["rm", "-rf", ".venv-newest"]
    assert make[-1] == ".venv-newest"
    assert install == [".venv-newest/bin/python", *INSTALL, "-e", ".[test]"]
    assert {command[0].split("/")[0] for command in rest} == {".venv-newest"}
    assert (checkout.root / ".venv-newest" / "pyvenv.cfg").exists()


def test_all_tests_are_those_that_no_marker_deselects(checkout):
    *_, tests = planned(checkout.run("test.sh", "tests/plan", "--all", "--dry-run", "--", "--all", **DRY))
    assert tests[-4:] == ["tests/plan", "-m", "", "--all"]


@pytest.fixture
def without_a_browser(checkout, tmp_path_factory):
    """The variable PATH of a machine that has all programs of this one but a browser."""
    others = tmp_path_factory.mktemp("others")
    for name in BROWSER:
        (checkout.root / "bin" / name).unlink()
    for folder in reversed(os.environ["PATH"].split(":")):
        for program in Path(folder).glob("*"):
            if program.name not in BROWSER:
                (others / program.name).unlink(missing_ok=True)
                (others / program.name).symlink_to(program)
    return {"PATH": f"{checkout.root / 'bin'}:{others}"}


@pytest.mark.parametrize(("user", "prefix"), [(0, []), (1000, ["sudo", "-n"])])
def test_the_tests_install_a_browser(checkout, without_a_browser, user, prefix):
    checkout.program("id", f"echo {user}")
    dry = planned(checkout.run("test.sh", "--dry-run", **DRY, **without_a_browser))
    assert [command for command in dry if "apt-get" in command] == [
        [*prefix, "apt-get", "update", "-qq"],
        [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *INSTALL_BROWSER],
    ]


def test_a_machine_where_none_can_be_installed_tests_the_rest(ready, without_a_browser):
    done = ready.run("test.sh", **without_a_browser)
    assert done.returncode == 0
    assert "the tests of the page of 'instructblip serve' are skipped" in done.stderr
    assert len(ran(done)) == 5


@pytest.mark.parametrize(
    ("fails", "status", "parts", "told"),
    [
        ("nothing", 0, ["python -c", "ruff check", "ruff format", "mypy", "python -m"], 4),
        ("ruff", 9, ["python -c", "ruff check"], 2),
        ("mypy", 9, ["python -c", "ruff check", "ruff format", "mypy"], 3),
        ("import", 1, ["python -c"], 1),
    ],
)
def test_the_tests_end_with_the_first_failure_and_say_how_long_each_part_took(ready, fails, status, parts, told):
    done = ready.run("test.sh", FAILS=fails)
    assert done.returncode == status
    assert ran(done) == parts
    last = done.stdout.splitlines()[-1]
    assert last.startswith("test.sh: installation ")
    assert last.count(" s") - last.count(" s,") == 1
    assert len(last.split(", ")) == told
    assert ("many would be skipped" in done.stderr) == (fails == "import")  # no torch: no reference
