#!/usr/bin/env bash
# The main job on the embedded default: tune on held-in tasks, judge on held-out ones, answer about a picture.
#
#   bash launch/demo.sh [--dry-run]     with --dry-run: print each command and run none
#
# Needs Python >= 3.11 and pip; no accelerator, no credentials. May be run twice: it resumes, or re-uses what is there.
# Installs the versions of launch/constraints.txt into .venv. Setting, by environment variable: PYTHON, which makes it.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
case ${1:-} in
    --dry-run) dry=yes && shift ;;
    --help | -h) usage && exit ;;
esac
[ $# = 0 ] || refuse "'$1' is no argument of it; --help tells the rest"
W=runs/digits
MODEL=instructblip_jax/assets/digits
# Steps allocate and free the same buffers again and again: huge pages make that cheap on Linux, elsewhere it is ignored.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

echo "== 1/4 virtual environment .venv; installing this package with its demo extra (minutes, the first time)"
VENV=.venv EXTRA=demo bash launch/worker.sh ${dry:+--dry-run} --install

echo "== 2/4 instruction tuning on twelve held-in tasks (configs/digits.py; scenes go to data/, the run to $W)"
call .venv/bin/instructblip train --config configs/digits.py --workdir "$W"

echo "== 3/4 evaluation on held-in and held-out tasks, with the picture and with it blanked"
if [ "$W/evaluation.json" -nt "$W/train.json" ] && [ -z "$dry" ]; then
    echo "already evaluated:" && cat "$W/evaluation.md" && ls "$W/evaluation.json" "$W/evaluation.md"
else
    call .venv/bin/instructblip evaluate --config configs/digits.py --workdir "$W"
fi

echo "== 4/4 three questions about a scene of handwriting that no training set holds"
call .venv/bin/python -m instructblip_jax.datasets.digits "$W/scene.png"
questions=("list all digits with place and colour" "how many digits are there ?" "which digit is the largest ?")
printf '   %s\n' "${questions[@]}"
call .venv/bin/instructblip answer --model "$MODEL" --workdir "$W" --image "$W/scene.png" "${questions[@]}"
