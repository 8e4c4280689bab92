# shellcheck shell=bash
# What the launch scripts share; sourced in the root of the checkout. A script's first comment is its --help.
dry=""

usage() {
    sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "launch/${0##*/}"
}

refuse() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# needs NAME "what it is": refuse where the setting is missing.
needs() {
    [ -n "${!1:-}" ] || refuse "set $1, $2; --help lists the settings"
}

# A command line as one could type it, quoted where it must be.
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

# Run a command, or with --dry-run only print it.
call() {
    if [ -n "$dry" ]; then show "$@"; else "$@"; fi
}

# on_bucket ACTION COMMAND ...: refuse a command that would leave what it makes on machines that go away.
on_bucket() {
    local action=$1 command=${2:-} workdir="" out="" looked=""
    [ -n "$command" ] || refuse "$action what? for example: $action train --config C --workdir gs://BUCKET/run"
    case $command in train | evaluate | ablate) looked=yes ;; esac
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
        refuse "$command needs --workdir gs://BUCKET/run: what lies on the machines goes with them${workdir:+, $workdir too}"
    [ "$action" != watch ] || [ "${KEEP:-0}" = 1 ] || [ -z "$out" ] || [[ $out = gs://?* ]] ||
        refuse "watch deletes the slice, and --out '$out' with it: keep the slice by KEEP=1, or say run instead of watch"
}
