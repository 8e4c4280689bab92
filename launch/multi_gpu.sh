#!/usr/bin/env bash
# One machine with many GPUs: `instructblip COMMAND ...` on all of them.
#
#   bash launch/multi_gpu.sh [--dry-run] [--processes N] COMMAND [--flags]
#
# One process drives all GPUs, which is the simplest and rarely slower. --processes N starts N instead, a share of the
# GPUs each, over loopback: the same job as on N machines. When one of them ends badly the others are stopped; started
# again, the command resumes. Ctrl-C and SIGTERM reach all of them, and let them save.
#
# Settings, by environment variable:
#   CUDA_VISIBLE_DEVICES     the GPUs to use (default: all that nvidia-smi lists)
#   JAX_COORDINATOR_ADDRESS  where the processes meet (default: a free port of localhost)
#   JAX_PLATFORMS=cpu        no GPUs: with XLA_FLAGS=--xla_force_host_platform_device_count=2 two devices a process
#   and those of launch/worker.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
processes=1
while :; do
    case ${1:-} in
        --dry-run) dry=yes ;;
        --processes) processes=${2:-} && shift ;;
        --processes=*) processes=${1#*=} ;;
        --help | -h) usage && exit ;;
        *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || refuse "no command; for example: bash launch/multi_gpu.sh train --config configs/digits.py --workdir W"
[[ $processes =~ ^[1-9][0-9]*$ ]] || refuse "--processes '$processes' is not a number above 0"
if [ "$processes" = 1 ]; then
    call exec bash launch/worker.sh "$@"
    exit
fi

gpus=()
if [ "${JAX_PLATFORMS:-}" != cpu ]; then
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    else
        mapfile -t gpus < <(nvidia-smi --list-gpus 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p')
    fi
    [ ${#gpus[@]} -gt 0 ] || refuse "no GPU is seen here; JAX_PLATFORMS=cpu does without"
    [ $((${#gpus[@]} % processes)) = 0 ] || refuse "${#gpus[@]} GPUs cannot be shared equally by $processes processes"
fi
share=$((${#gpus[@]} / processes))

call bash launch/worker.sh --install
if [ -z "${JAX_COORDINATOR_ADDRESS:-}" ]; then
    free='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
    JAX_COORDINATOR_ADDRESS=localhost:$("${VENV:-.venv}/bin/python" -c "$free" 2>/dev/null || echo 12345)
fi
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$processes

told="" pids=()
trap 'told=yes; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((k = 0; k < processes; k++)); do
    settings=(JAX_COORDINATOR_ADDRESS="$JAX_COORDINATOR_ADDRESS" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$k")
    if [ $share -gt 0 ]; then
        settings+=(CUDA_VISIBLE_DEVICES="$(IFS=,; echo "${gpus[*]:k * share:share}")")
    fi
    if [ -n "$dry" ]; then
        show env "${settings[@]}" bash launch/worker.sh "$@"
    elif [ "$k" = 0 ]; then # it speaks for all; what the others say is marked
        env "${settings[@]}" bash launch/worker.sh "$@" &
        pids+=($!)
    else
        env "${settings[@]}" bash launch/worker.sh "$@" > >(sed -u "s/^/[process $k] /") 2> >(sed -u "s/^/[process $k] /" >&2) &
        pids+=($!)
    fi
done
[ -z "$dry" ] || exit 0
[ -z "$told" ] || kill -TERM "${pids[@]}" 2>/dev/null || true # those that were begun after it came

# Stop what still runs: SIGTERM, and SIGKILL for what hangs in a collective without its peers.
stop_all() {
    kill -TERM "${pids[@]}" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "${pids[@]}" 2>/dev/null || break
        sleep 0.2
    done
    kill -KILL "${pids[@]}" 2>/dev/null || true
}

exec 3>&2 2>/dev/null # bash would add a line of its own for each process that was killed
running=("${!pids[@]}") code=0

# Of those that have ended: the first one that ended badly. 75 says only that another one is gone.
look() {
    local left=() k status
    for k in "${running[@]}"; do
        if kill -0 "${pids[k]}" 2>/dev/null; then left+=("$k") && continue; fi
        status=0
        wait "${pids[k]}" || status=$?
        if [ $status != 0 ] && { [ $code = 0 ] || [ $code = 75 ]; }; then blamed=$k code=$status; fi
    done
    running=(${left[@]+"${left[@]}"})
}

while [ ${#running[@]} -gt 0 ]; do
    look
    if [ "$code" != 0 ] && [ -z "$told" ]; then
        [ "$code" != 75 ] || { sleep 0.5; look; }
        stop_all
        how="status $code"
        [ "$code" -le 128 ] || how="signal $((code - 128))"
        echo >&3 # a progress bar may stand in the line that was begun
        echo "multi_gpu.sh: process $blamed of $processes ended with $how, so the others were stopped;" \
            "the same command again resumes from the last checkpoint" >&3
        exit "$code"
    fi
    sleep 0.2 || true # which Ctrl-C ends, too
done
exit "$code"
