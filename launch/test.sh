#!/usr/bin/env bash
# Lint, type checks and tests, in a virtual environment that this script makes.
#
#   bash launch/test.sh [--newest] [--all] [--dry-run] [PYTEST ARGUMENTS]
#
#   --newest    the newest versions that setup.py allows, in a new .venv-newest, instead of those in
#               launch/constraints.txt in .venv
#   --all       also the tests that CI omits: those marked long, reference or full_size (hours)
#   --dry-run   print each command and run none
#
# Other arguments go to pytest, for example: bash launch/test.sh tests/launch -k dry_run
# The page of `instructblip serve` is tested in Chromium, which apt-get installs if it is missing and this user may;
# otherwise those tests are skipped. Needs Python >= 3.11 and pip; may be run again. Environment variable: PYTHON, the
# Python that makes the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/say.sh
VENV=.venv constraints=()
newest="" pytest=()
while [ $# -gt 0 ]; do
    case $1 in
        --newest) newest=yes VENV=.venv-newest ;;
        --all) pytest+=(-m "") ;; # overrides the markers that pyproject.toml deselects
        --dry-run) dry=yes ;;
        --help | -h) usage && exit ;;
        --) shift && break ;;
        *) pytest+=("$1") ;;
    esac
    shift
done

install_browser() {
    local root=() told=/dev/null
    ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null || return 0
    if command -v apt-get >/dev/null; then
        [ -z "$dry" ] || told=/dev/stdout
        [ "$(id -u)" = 0 ] || root=(sudo -n)
        call ${root[@]+"${root[@]}"} apt-get update -qq &&
            call ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends chromium chromium-driver >"$told" && return
    fi
    echo "test.sh: Chromium cannot be installed here, so the tests of the page of 'instructblip serve' are skipped" >&2
}

spent="" part="" begun=0
begin() { # PART "what is done": the seconds of each part are printed at the end, however it ends
    [ -z "$part" ] || spent+="${spent:+, }$part $((SECONDS - begun)) s"
    part=$1 begun=$SECONDS
    [ -z "$part" ] || echo "$2"
}
[ -n "$dry" ] || trap 'begin ""; echo "test.sh: $spent"' EXIT

begin installation "1/4 virtual environment $VENV; installing this package with its test extra"
if [ -n "$newest" ]; then
    constraints=(CONSTRAINTS=) # empty: none
    call rm -rf "$VENV"
fi
# Set for this command only: the tests run the launch scripts, which read the same variables.
env VENV="$VENV" EXTRA=test ${constraints[@]+"${constraints[@]}"} bash launch/worker.sh ${dry:+--dry-run} --install
# Without one of these, tests that need it would be skipped, and the result would look green.
call "$VENV/bin/python" -c "import torch, transformers, libtpu, matplotlib, pyarrow, simplejpeg" ||
    { echo "test.sh: a package that the tests need cannot be imported, so many would be skipped; remove $VENV and try again" >&2 && exit 1; }
install_browser
export JAX_PLATFORMS=cpu

begin ruff "2/4 ruff"
call "$VENV/bin/ruff" check .
call "$VENV/bin/ruff" format --check .

begin mypy "3/4 mypy"
call "$VENV/bin/mypy"

begin pytest "4/4 pytest"
call "$VENV/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
    --durations=40 --durations-min=2 ${pytest[@]+"${pytest[@]}"} "$@"
