#!/usr/bin/env bash
# Lint, types and tests, in a virtual environment of their own making. Needs Python >= 3.11 and pip; may be run twice.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1:-}" = "--dry-run" ] && say="echo +" || say=""
PYTHON=${PYTHON:-python3}

echo "1/4 virtual environment .venv and installation of this package with its test extra"
[ -x .venv/bin/python ] || $say "$PYTHON" -m venv .venv
$say .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
export JAX_PLATFORMS=cpu

echo "2/4 ruff"
$say .venv/bin/ruff check .
$say .venv/bin/ruff format --check .

echo "3/4 mypy"
$say .venv/bin/mypy

echo "4/4 pytest"
$say .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
