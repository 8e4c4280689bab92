# shellcheck shell=bash
# Functions that the launch scripts share; sourced in the root of the checkout. A script's first comment is its --help.
dry=""

usage() {
    sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "launch/${0##*/}"
}

refuse() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# needs NAME "what it is": refuse if the setting is missing.
needs() {
    [ -n "${!1:-}" ] || refuse "set $1, $2; --help lists the settings"
}

# Print a command line as one could type it, quoted where necessary.
quoted() {
    local word line=""
    for word in "$@"; do
        case $word in
            "" | *[!A-Za-z0-9_./:=@,%+-]*) word="'${word//\'/\'\\\'\'}'" ;;
        esac
        line+="${line:+ }$word"
    done
    printf '%s' "$line"
}

show() {
    echo "+ $(quoted "$@")"
}

# Run a command, or only print it with --dry-run.
call() {
    if [ -n "$dry" ]; then show "$@"; else "$@"; fi
}

# on_bucket ACTION COMMAND ...: refuse a command whose results would be lost with the machines.
on_bucket() {
    local action=$1 command=${2:-} workdir="" out="" looked=""
    [ -n "$command" ] || refuse "$action what? for example: $action train --config C --workdir gs://BUCKET/run"
    case $command in train | evaluate | ablate | compare) looked=yes ;; esac
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        case $1 in
            --workdir=* | -workdir=*) looked=yes workdir=${1#*=} ;;
            --workdir | -workdir) looked=yes workdir=${2:-} ;;
            --out=* | -out=*) out=${1#*=} ;;
            --out | -out) out=${2:-} ;;
        esac
        shift
    done
    [ -z "$looked" ] || [[ $workdir = gs://?* ]] ||
        refuse "$command needs --workdir gs://BUCKET/run: what is on the machines is lost with them${workdir:+, $workdir too}"
    [ "$action" != watch ] || [ "${KEEP:-0}" = 1 ] || [ -z "$out" ] || [[ $out = gs://?* ]] ||
        refuse "watch deletes the slice, and --out '$out' with it: keep the slice with KEEP=1, or use run instead of watch"
}
