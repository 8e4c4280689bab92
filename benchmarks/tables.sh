#!/usr/bin/env bash
# Print the tables of docs/performance.md: every benchmark against its peers, one after the other, about an hour alone on
# two cores. PYTHON names another interpreter; arguments (--rounds 3) go to every benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
run() {
    echo "## $*"
    "${PYTHON:-python}" "$@" 2>/dev/null
    echo
}
for scale in tiny small; do
    run benchmarks/train_step.py --scale "$scale" "$@"
done
for family in t5 llama; do
    run benchmarks/generate.py --family "$family" "$@"
    run benchmarks/rank.py --family "$family" "$@"
done
for family in t5 opt; do
    for scale in tiny small; do
        run benchmarks/kerashub.py --make --family "$family" --scale "$scale" "$@"
    done
done
