#!/usr/bin/env bash
# One machine with many GPUs: `instructblip COMMAND ...` on all of them.
#
#   bash launch/multi_gpu.sh [--dry-run] [--processes N] COMMAND [--flags]
#
# One process drives all GPUs, which is simplest and rarely slower. --processes N starts N processes instead, each with
# a share of the GPUs, connected over loopback: the same job as on N machines. If one of them fails, the others are
# stopped; the same command then resumes. Ctrl-C and SIGTERM reach all processes and let them save.
#
# Settings, by environment variable:
#   CUDA_VISIBLE_DEVICES     the GPUs to use (default: all that nvidia-smi lists)
#   JAX_COORDINATOR_ADDRESS  where the processes meet (default: a free port of localhost)
#   JAX_PLATFORMS=cpu        no GPUs; two devices per process: XLA_FLAGS=--xla_force_host_platform_device_count=2
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
[[ $processes =~ ^[1-9][0-9]*$ ]] || refuse "--processes '$processes' must be a number above 0"
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
    [ ${#gpus[@]} -gt 0 ] || refuse "no GPU is seen here; JAX_PLATFORMS=cpu runs without"
    [ $((${#gpus[@]} % processes)) = 0 ] || refuse "${#gpus[@]} GPUs cannot be shared equally by $processes processes"
fi
share=$((${#gpus[@]} / processes))

call bash launch/worker.sh --install
if [ -z "${JAX_COORDINATOR_ADDRESS:-}" ]; then
    free='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
    JAX_COORDINATOR_ADDRESS=localhost:$("${VENV:-.venv}/bin/python" -c "$free" 2>/dev/null || echo 12345)
fi
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$processes

signaled="" pids=()
trap 'signaled=yes; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((k = 0; k < processes; k++)); do
    settings=(JAX_COORDINATOR_ADDRESS="$JAX_COORDINATOR_ADDRESS" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$k")
    if [ $share -gt 0 ]; then
        settings+=(CUDA_VISIBLE_DEVICES="$(IFS=,; echo "${gpus[*]:k * share:share}")")
    fi
    if [ -n "$dry" ]; then
        show env "${settings[@]}" bash launch/worker.sh "$@"
    elif [ "$k" = 0 ]; then # it reports for all; output of the others is prefixed
        env "${settings[@]}" bash launch/worker.sh "$@" &
        pids+=($!)
    else
        env "${settings[@]}" bash launch/worker.sh "$@" > >(sed -u "s/^/[process $k] /") 2> >(sed -u "s/^/[process $k] /" >&2) &
        pids+=($!)
    fi
done
[ -z "$dry" ] || exit 0
[ -z "$signaled" ] || kill -TERM "${pids[@]}" 2>/dev/null || true # those started after the signal

# Stop what still runs: SIGTERM, then SIGKILL for processes that hang in a collective without their peers.
stop_all() {
    kill -TERM "${pids[@]}" 2>/dev/null || true
    for _ in $(seq 50); do
        kill -0 "${pids[@]}" 2>/dev/null || break
        sleep 0.2
    done
    kill -KILL "${pids[@]}" 2>/dev/null || true
}

exec 3>&2 2>/dev/null # bash would print a line for each killed process
running=("${!pids[@]}") code=0

# Find the first process that failed. Status 75 only means that another one is gone.
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
    if [ "$code" != 0 ] && [ -z "$signaled" ]; then
        [ "$code" != 75 ] || { sleep 0.5; look; }
        stop_all
        how="status $code"
        [ "$code" -le 128 ] || how="signal $((code - 128))"
        echo >&3 # the current line may hold a progress bar
        echo "multi_gpu.sh: process $blamed of $processes ended with $how, so the others were stopped;" \
            "run the same command again to resume from the last checkpoint" >&3
        exit "$code"
    fi
    sleep 0.2 || true # Ctrl-C ends it, too
done
exit "$code"
