#!/usr/bin/env bash
# Lint, types and tests, in a virtual environment of their own making.
#
#   bash launch/test.sh [--newest] [--all] [--dry-run] [PYTEST ARGUMENTS]
#
#   --newest    not the versions of launch/constraints.txt in .venv, but the newest that setup.py allows, in a new
#               .venv-newest
#   --all       also the tests that CI leaves out: marked long, reference or full_size (hours)
#   --dry-run   print each command and run none
#
# What it does not know goes to pytest, for example: bash launch/test.sh tests/launch -k dry_run
# Needs Python >= 3.11 and pip; may be run twice. Setting, by environment variable: PYTHON, which makes the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
VENV=.venv constraints=()
newest="" pytest=()
while [ $# -gt 0 ]; do
    case $1 in
        --newest) newest=yes VENV=.venv-newest ;;
        --all) pytest+=(-m "") ;; # in place of what pyproject.toml deselects
        --dry-run) dry=yes ;;
        --help | -h) usage && exit ;;
        --) shift && break ;;
        *) pytest+=("$1") ;;
    esac
    shift
done

spent="" part="" begun=0
begin() { # PART "what is done": the seconds of each part are told at the end, however that comes
    [ -z "$part" ] || spent+="${spent:+, }$part $((SECONDS - begun)) s"
    part=$1 begun=$SECONDS
    [ -z "$part" ] || echo "$2"
}
[ -n "$dry" ] || trap 'begin ""; echo "test.sh: $spent"' EXIT

begin installation "1/4 virtual environment $VENV and installation of this package with its test extra"
if [ -n "$newest" ]; then
    constraints=(CONSTRAINTS=) # empty: none
    call rm -rf "$VENV"
fi
# For this command alone: the tests run the launch scripts, and these read the same variables.
env VENV="$VENV" EXTRA=test ${constraints[@]+"${constraints[@]}"} bash launch/worker.sh ${dry:+--dry-run} --install
# Tests that need one of these are skipped without it, and would look green.
call "$VENV/bin/python" -c "import torch, transformers, libtpu, matplotlib, pyarrow" ||
    { echo "test.sh: what the tests need does not import, so many would be skipped; remove $VENV and try again" >&2 && exit 1; }
export JAX_PLATFORMS=cpu

begin ruff "2/4 ruff"
call "$VENV/bin/ruff" check .
call "$VENV/bin/ruff" format --check .

begin mypy "3/4 mypy"
call "$VENV/bin/mypy"

begin pytest "4/4 pytest"
call "$VENV/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
    --durations=40 --durations-min=2 ${pytest[@]+"${pytest[@]}"} "$@"
