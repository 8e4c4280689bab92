#!/usr/bin/env bash
# One worker of a job, on this machine: makes the environment if it is missing, then runs `instructblip COMMAND ...`.
#
#   bash launch/worker.sh [--dry-run] [--install | --follow | --stop] COMMAND [--flags]
#
#   --install   only make the environment; quick if it already exists
#   --follow    run COMMAND in the background and show its log; if it is already running, show its log again, so that
#               a broken connection stops nothing. Ends when COMMAND does, with its exit status.
#   --stop      stop what --follow started: SIGTERM, which lets it save, and SIGKILL a minute later
#
# Settings, by environment variable:
#   EXTRA       extras to install with the package: tpu, cuda, demo, or several separated by commas
#               (default: cuda if nvidia-smi works, otherwise none)
#   CONSTRAINTS file of exact versions to install (default launch/constraints.txt; empty: the newest that setup.py
#               allows, which extra beam needs)
#   VENV        the virtual environment (default .venv); INSTALL=0 uses it as it is
#   PYTHON      the Python >= 3.11 that makes it (default: the first one found; if there is none, uv downloads one)
#   JAX_COMPILATION_CACHE_DIR   directory of compiled programs (default: see train --help)
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
VENV=${VENV:-.venv}
CONSTRAINTS=${CONSTRAINTS-launch/constraints.txt}
RUN=runs/worker

able() {
    command -v "$1" >/dev/null && "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_venv() {
    local python
    for python in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        able "$python" && call "$python" -m venv "$VENV" && return
    done
    call python3 -m pip install --quiet --disable-pip-version-check --user uv
    call python3 -m uv venv --quiet --seed --python 3.12 "$VENV"
}

install() {
    local wanted
    wanted="$PWD [$EXTRA] $(cat setup.py ${CONSTRAINTS:+"$CONSTRAINTS"} | cksum)"
    if [ "${INSTALL:-1}" = 0 ] || [ "$(cat "$VENV/instructblip" 2>/dev/null)" = "$wanted" ]; then return; fi
    [ -x "$VENV/bin/python" ] || make_venv
    call "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        ${CONSTRAINTS:+-c "$CONSTRAINTS"} -e ".${EXTRA:+[$EXTRA]}"
    [ -n "$dry" ] || echo "$wanted" >"$VENV/instructblip"
}

environment() {
    # Steps allocate and free the same buffers again and again; huge pages make that cheap on Linux.
    call export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
    case ,$EXTRA, in
        *,cuda,*) call export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" ;;
        *,tpu,*) # with huge pages the TPU runtime starts and stops much faster
            local pages=/sys/kernel/mm/transparent_hugepage/enabled
            grep -qs '\[always\]' "$pages" || call sudo -n sh -c "echo always >$pages" ||
                echo "worker.sh: could not enable transparent huge pages; continuing without them" >&2
            ;;
    esac
}

alive() {
    [ -e $RUN/pid ] && kill -0 "$(cat $RUN/pid)" 2>/dev/null
}

follow() {
    # The shell around the command survives a SIGTERM to the whole group, to record how the command ended.
    local inner
    inner="trap : TERM; bash launch/worker.sh $(quoted "$@"); echo \$? >$RUN/status"
    if [ -n "$dry" ]; then
        show setsid nohup bash -c "$inner"
        show tail --lines=+1 --follow $RUN/log
        return
    fi
    mkdir -p $RUN
    if alive; then
        [ "$(cat $RUN/command)" = "$*" ] || refuse "already running here: $(cat $RUN/command); end it with --stop"
    else
        rm -f $RUN/status
        echo "$*" >$RUN/command
        : >$RUN/log # tail may start before the command
        setsid nohup bash -c "$inner" >$RUN/log 2>&1 </dev/null &
        echo $! >$RUN/pid
    fi
    tail --lines=+1 --follow --pid="$(cat $RUN/pid)" $RUN/log
    exit "$(cat $RUN/status 2>/dev/null || echo 137)"
}

stop() {
    [ -z "$dry" ] || { show kill -TERM -- "-PID of $RUN/pid"; return; }
    alive || return 0
    kill -TERM -- "-$(cat $RUN/pid)"
    for _ in $(seq 120); do
        alive || return 0
        sleep 0.5
    done
    kill -KILL -- "-$(cat $RUN/pid)"
}

action=run
while :; do
    case ${1:-} in
        --dry-run) dry=yes ;;
        --install | --follow | --stop) action=${1#--} ;;
        --help | -h) usage && exit ;;
        *) break ;;
    esac
    shift
done
if [ -z "${EXTRA+set}" ]; then
    EXTRA=""
    [ "${JAX_PLATFORMS:-}" = cpu ] || ! nvidia-smi --list-gpus >/dev/null 2>&1 || EXTRA=cuda
fi
case $action in
    install) install ;;
    stop) stop ;;
    *)
        [ $# -gt 0 ] || refuse "no command; for example: bash launch/worker.sh train --config configs/digits.py --workdir W"
        if [ "$action" = follow ]; then follow "$@"; else
            install
            environment
            call exec "$VENV/bin/python" -m instructblip_jax "$@"
        fi
        ;;
esac
