#!/usr/bin/env bash
# The whole chain in the digits world: BLIP-2's first stage, its second, instruction tuning; evaluated after each.
#
#   bash launch/chain.sh [--dry-run]     with --dry-run: print each command and run none
#
# Needs the .venv that launch/demo.sh makes. Run again, it resumes, or reuses what is there.
# Environment variables: W, where everything is written (default runs/chain); SEED, that of all its runs (default 0).
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
case ${1:-} in
    --dry-run) dry=yes && shift ;;
    --help | -h) usage && exit ;;
esac
[ $# = 0 ] || refuse "'$1' is not an argument of this script; see --help"
W=${W:-runs/chain}
PARTS=instructblip_jax/assets
run=.venv/bin/instructblip
[ -n "$dry" ] || [ -x "$run" ] || refuse "$run is not there; bash launch/demo.sh makes it"
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

# writes DIR COMMAND ...: call the command, which writes the model directory DIR, unless it is there.
writes() {
    local out=$1
    shift
    [ -n "$dry" ] || [ ! -f "$out/config.json" ] || return 0
    call "$run" "$@" --out "$out"
}

# trains NAME FILE [FLAG ...]: train W/NAME.start in W/NAME as the file says, and evaluate.
trains() {
    local name=$1 file=$2
    shift 2
    local flags=(--config "$file" --workdir "$W/$name" --config.model="$W/$name.start" --config.seed="${SEED:-0}" "$@")
    call "$run" train "${flags[@]}"
    call "$run" evaluate "${flags[@]}"
}

echo "== 1/3 stage 1: the Q-Former of a BERT learns from captions, without a language model"
writes "$W/stage1.start" assemble blip-2 --vision $PARTS/digits --bert $PARTS/digits_bert --queries 16
trains stage1 configs/digits_blip2_stage1.py
writes "$W/stage1.model" export --model "$W/stage1.start" --workdir "$W/stage1"

echo "== 2/3 stage 2: the same Q-Former before the T5"
writes "$W/stage2.start" assemble blip-2 --qformer "$W/stage1.model" --language $PARTS/digits
trains stage2 configs/digits_blip2_stage2.py
writes "$W/stage2.model" export --model "$W/stage2.start" --workdir "$W/stage2"

echo "== 3/3 instruction tuning: InstructBLIP, whose Q-Former reads instructions as stage 1 read captions"
writes "$W/instructblip.start" assemble instructblip --blip2 "$W/stage2.model" --bert "$W/stage1.model"
trains instructblip configs/digits.py --config.steps=1500
