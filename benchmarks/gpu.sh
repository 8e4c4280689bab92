#!/usr/bin/env bash
# Speed on one GPU, measured and planned: training (samples a second, MFU) and decoding (tokens a second), XL and 7B.
#
#     benchmarks/gpu.sh [--scale full|tiny] [--json FILE] [--only PART ...] [--seconds N]
#
# The table of benchmarks/gpu.py, whose --help has the details, in less than nine minutes on one H100 or H200. The
# environment is the current one, with the extra "cuda"; nothing is downloaded. --scale tiny tries it on any machine.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python benchmarks/gpu.py "$@"
