#!/usr/bin/env bash
# The main job on the embedded default: tune on held-in tasks, judge on held-out ones, answer about a picture.
# Needs Python >= 3.11 and pip; no accelerator, no credentials. May be run twice: it resumes, or re-uses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1:-}" = "--dry-run" ] && say="echo +" || say=""
WORKDIR=runs/digits
PYTHON=${PYTHON:-python3}

echo "1/5 virtual environment .venv and installation of this package with its demo extra"
[ -x .venv/bin/python ] || $say "$PYTHON" -m venv .venv
$say .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
run() { $say .venv/bin/instructblip "$@"; }

echo "2/5 instruction tuning on the held-in tasks of configs/digits.py (the scenes are written to data/ first)"
run train --config configs/digits.py --workdir "$WORKDIR"

echo "3/5 evaluation on held-in and held-out tasks, with the picture and with it blanked"
run evaluate --config configs/digits.py --workdir "$WORKDIR"

echo "4/5 a scene that no training set has seen, and three questions about it"
run prepare digits --out data --scene "$WORKDIR/scene.png"
