#!/usr/bin/env bash
# The main job on the embedded default: tune on held-in tasks, evaluate on held-out ones, answer about a picture.
#
#   bash launch/demo.sh [--dry-run]     with --dry-run: print each command and run none
#
# Needs Python >= 3.11 and pip; no accelerator, no credentials. Run again, it resumes, or reuses what is there.
# Installs the versions in launch/constraints.txt into .venv. Environment variable: PYTHON, the Python that makes .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
case ${1:-} in
    --dry-run) dry=yes && shift ;;
    --help | -h) usage && exit ;;
esac
[ $# = 0 ] || refuse "'$1' is not an argument of this script; see --help"
W=runs/digits
MODEL=instructblip_jax/assets/digits
# Steps allocate and free the same buffers again and again; huge pages make that cheap on Linux. Ignored elsewhere.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

echo "== 1/4 virtual environment .venv; installing this package with its demo extra (takes minutes the first time)"
VENV=.venv EXTRA=demo bash launch/worker.sh ${dry:+--dry-run} --install

echo "== 2/4 instruction tuning on twelve held-in tasks (configs/digits.py; scenes in data/, the run in $W)"
call .venv/bin/instructblip train --config configs/digits.py --workdir "$W"

echo "== 3/4 evaluation on held-in and held-out tasks, with the picture and with a blank one"
if [ "$W/evaluation.json" -nt "$W/train.json" ] && [ -z "$dry" ]; then
    echo "already evaluated:" && cat "$W/evaluation.md" && ls "$W/evaluation.json" "$W/evaluation.md"
else
    call .venv/bin/instructblip evaluate --config configs/digits.py --workdir "$W"
fi

echo "== 4/4 three questions about a scene whose handwriting is in no training set"
call .venv/bin/python -m instructblip_jax.datasets.digits "$W/scene.png"
questions=("list all digits with place and colour" "how many digits are there ?" "which digit is the largest ?")
printf '   %s\n' "${questions[@]}"
call .venv/bin/instructblip answer --model "$MODEL" --workdir "$W" --image "$W/scene.png" "${questions[@]}"

echo "== to ask it in a browser: .venv/bin/instructblip serve --model $MODEL --workdir $W"
