#!/usr/bin/env bash
# A TPU slice of Google Cloud, through gcloud: create, install, run, create again after a preemption, delete.
#
#   bash launch/tpu_slice.sh [--dry-run] create             request the slice and wait until it is ready
#   bash launch/tpu_slice.sh [--dry-run] copy               copy this checkout to all workers and install it
#   bash launch/tpu_slice.sh [--dry-run] run COMMAND ...    run on all workers, show their logs; again: the same run
#   bash launch/tpu_slice.sh [--dry-run] watch COMMAND ...  all of the above, through preemptions, until COMMAND
#                                                           has succeeded; then delete the slice (KEEP=1: keep it)
#   bash launch/tpu_slice.sh [--dry-run] stop | status | delete
#
# COMMAND is one of instructblip's, for example: train --config C --workdir gs://BUCKET/run. A workdir that is not on
# gs:// is refused, because a slice's own disks are lost with it; from a bucket, the same command resumes by itself.
#
# Settings, by environment variable:
#   TPU_NAME, ZONE   the slice's name and zone;  PROJECT   (default: gcloud's)
#   TYPE             v4-32, v5litepod-16, v5p-32, v6e-16 ...;  RUNTIME   software version (default: by TYPE)
#   BILLING          on-demand (default), spot or reserved;  QUEUED=1   request it as a queued resource
#   EXTRA            extras that the workers install (default tpu, with buckets; tpu,demo for configs/digits.py)
#   WORKER_ENV       variables for the workers, "A=1 B=2";  SETUP   a shell line that they run after each copy
#   RETRIES          maximum number of restarts in a row of COMMAND on a slice that still exists (default 3)
#   POLL             seconds between checks while waiting (default 30)
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
if [ "${1:-}" = --dry-run ]; then dry=yes && shift; fi
action=${1:---help}
[ $# -eq 0 ] || shift
case $action in
    --help | -h) usage && exit ;;
    create | copy | stop | status | delete) [ $# = 0 ] || refuse "$action takes no arguments" ;;
    run | watch) on_bucket "$action" "$@" ;;
    *) refuse "no action '$action'; choose create, copy, run, watch, stop, status or delete" ;;
esac
needs TPU_NAME "the slice's name"
needs ZONE "the zone, such as us-west4-a"
POLL=${POLL:-30}
case ${BILLING:=on-demand} in
    on-demand) billing=() ;;
    spot | reserved) billing=(--"$BILLING") ;;
    *) refuse "BILLING is '$BILLING'; it must be on-demand, spot or reserved" ;;
esac
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
vm=(gcloud compute tpus tpu-vm)
# With QUEUED=1, a queued resource of the same name is created, listed and deleted; its slice is used like any other.
if [ "${QUEUED:-0}" = 1 ]; then
    kind=(gcloud compute tpus queued-resources) field=state.state
    options=(--node-id="$TPU_NAME") version=--runtime-version force=(--force)
else
    kind=("${vm[@]}") field=state
    options=() version=--version force=()
fi

# Functions return their failures explicitly: bash ignores `set -e` in functions that are called in a condition.
# now = READY (a queued resource: ACTIVE), CREATING, PREEMPTED ...; empty if there is no such slice.
now=""
look() {
    local list=("${kind[@]}" list "${where[@]}" --filter="name~/$TPU_NAME\$" --format="value($field)")
    if [ -n "$dry" ]; then show "${list[@]}" && return; fi
    for _ in $(seq 10); do
        now=$("${list[@]}") && return
        sleep "$POLL" # a network failure does not mean that the slice is gone
    done
    return 1
}

delete() {
    call "${kind[@]}" delete "$TPU_NAME" "${where[@]}" ${force[@]+"${force[@]}"} --quiet
}

create() {
    needs TYPE "the slice's type, such as v5litepod-16"
    local runtime=tpu-ubuntu2204-base # v4 and before
    case $TYPE in
        v6e-*) runtime=v2-alpha-tpuv6e ;;
        v5p-*) runtime=v2-alpha-tpuv5 ;;
        v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    esac
    while look; do
        case $now in
            READY | ACTIVE) remains="exists" && return ;;
            "")
                remains="may exist"
                call "${kind[@]}" create "$TPU_NAME" "${where[@]}" --accelerator-type="$TYPE" \
                    "$version=${RUNTIME:-$runtime}" ${options[@]+"${options[@]}"} ${billing[@]+"${billing[@]}"} || return
                if [ -n "$dry" ]; then now=READY; fi
                ;;
            PREEMPTED | TERMINATED | STOPPED | FAILED | SUSPENDED) echo "$TPU_NAME is $now" && delete || return ;;
            *) echo "$TPU_NAME is $now; checking again in $POLL s" && sleep "$POLL" ;;
        esac
    done
    return 1
}

on_all() { # the keep-alive detects a slice that is gone without notice
    call "${vm[@]}" ssh "$TPU_NAME" "${where[@]}" --worker=all --ssh-flag=-oServerAliveInterval=30 --command="$1"
}

worker() {
    on_all "cd instructblip_jax && EXTRA=${EXTRA:-tpu} ${WORKER_ENV:+$WORKER_ENV }bash launch/worker.sh $(quoted "$@")"
}

copy() { # what git tracks or would track: no runs, no environments
    archive=${archive:-$(mktemp)} # an unpredictable name, readable by this user only
    call bash -c "git ls-files -z -co --exclude-standard | tar --null -T - -czf $(quoted "$archive")" &&
        call "${vm[@]}" scp "$archive" "$TPU_NAME:checkout.tgz" "${where[@]}" --worker=all &&
        on_all "mkdir -p instructblip_jax && tar -xzf checkout.tgz -C instructblip_jax" &&
        worker --install && { [ -z "${SETUP:-}" ] || on_all "$SETUP"; }
}

watch() {
    local failures=0 made="" filled="" status begun
    while :; do
        # A first refusal ends the script; after a preemption, keep asking until there is capacity again.
        until [ -n "$filled" ] || create; do
            [ -n "$made" ] || exit 1
            echo "no slice yet; asking again in $POLL s" && sleep "$POLL"
        done
        made=yes status=0 begun=$SECONDS
        if [ -n "$filled" ] || copy; then filled=yes && worker --follow "$@" || status=$?; else status=255; fi
        if [ $status = 0 ]; then return; fi
        look
        [ $((SECONDS - begun)) -lt 1800 ] || failures=0
        if [ "$now" != READY ] && [ "$now" != ACTIVE ]; then
            echo "$TPU_NAME was taken away (${now:-gone}); creating it again to resume from the last checkpoint"
            filled=""
        elif [ $status -le 2 ] || [ $failures = "${RETRIES:-3}" ]; then # 1, 2: an error that would occur again
            echo "tpu_slice.sh: status $status, although the slice exists; see the lines above" >&2
            exit $status
        else
            failures=$((failures + 1))
            echo "status $status, although the slice exists: restarting, $failures of ${RETRIES:-3}"
            [ $status = 255 ] || worker --stop # 255 is a lost connection: the run may still be alive
        fi
    done
}

remains="" archive=${dry:+CHECKOUT.tgz}
trap '[ -n "$dry" ] || rm -f "$archive"; [ -z "$remains" ] || echo "$TPU_NAME ($ZONE, $BILLING) $remains and is billed until: bash launch/tpu_slice.sh delete"' EXIT
case $action in
    create) create ;;
    status) call "${kind[@]}" list "${where[@]}" ;;
    delete) delete && echo "$TPU_NAME is deleted; data on gs:// remains and is billed as storage" ;;
    copy) remains="exists" && copy ;;
    stop) remains="exists" && worker --stop ;;
    run) remains="exists" && worker --follow "$@" ;;
    watch)
        watch "$@"
        [ "${KEEP:-0}" = 1 ] || { delete && remains=""; }
        ;;
esac
