"""Compiled programs are kept in the user's cache folder, so that only the first start waits for the compiler.

JAX reads where from environment variables, so that this costs no command the seconds in which jax is imported.
"""

import os
import shutil
from pathlib import Path

from filelock import FileLock

GIB = 2**30
BOUND = 4 * GIB
"""Bytes that are kept; what was not used for longest goes first."""
SPARE = GIB
"""Bytes that the disk must have left: a disk that fills up would fail each write."""
SECONDS = 0.05
"""Programs that compile faster are not kept: they are many, and save nothing that was measured."""

HELP = f"""Compiled programs are kept for the next start in ~/.cache/instructblip_jax (below $XDG_CACHE_HOME, if that is
set), {BOUND // GIB} GiB at most: the least recently used go first. JAX_COMPILATION_CACHE_DIR=DIR keeps them in DIR,
without a bound (JAX_COMPILATION_CACHE_MAX_SIZE=BYTES gives it one); JAX_COMPILATION_CACHE_DIR= (empty) keeps none."""


def use() -> str:
    """Point JAX to the folder, unless JAX_COMPILATION_CACHE_DIR does. Returns why none is used, "" where one is."""
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(SECONDS))
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return ""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "instructblip_jax"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lockfile", timeout=10):  # JAX's own, by which it bounds the folder
            _remove_unfinished(folder)
        left = shutil.disk_usage(folder).free
    except (OSError, RuntimeError) as error:  # no home; not writable; a file system without locks
        return str(error)
    if left < SPARE:
        return f"{folder}: the disk has {left / GIB:.1f} GiB left, {SPARE / GIB:.0f} are needed"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(BOUND))
    return ""


def _remove_unfinished(folder: Path) -> None:
    """A program without its time of use is half written (the process was killed, the disk full), or from before the
    folder was bounded. JAX could neither read it nor, while it lies there, write any other."""
    for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink()
