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
