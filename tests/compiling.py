"""How tests compile, which is most of what they do."""

from pathlib import Path

FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""The compiler's last stage (machine code, not the program's own passes) optimizes nothing, and fusions are written the
older way, with other roundings: a train step compiles in a quarter of the time."""
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / ".cache" / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
"""Compiled programs, shared by all tests, workers and processes, and kept for the next run."""
THREADS = {"PJRT_NPROC": "32"}
"""Threads for eight fake devices on a few cores: collectives block theirs, and with too few XLA waits, then aborts."""
