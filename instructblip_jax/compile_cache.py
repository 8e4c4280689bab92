"""JAX's persistent compilation cache in the user's cache directory: only the first start waits for the compiler.

It is set up through environment variables, so that no command must import jax for it, which takes seconds.
"""

import os
import shutil
from pathlib import Path

from filelock import FileLock

GIB = 2**30
BOUND = 4 * GIB
"""Size limit in bytes; the least recently used programs are removed first."""
SPARE = GIB
"""Bytes that must be free on the disk; on a full one every write would fail."""
SECONDS = 0.05
"""Programs that compile faster than this are not kept: there are many of them, and they save no measurable time."""

HELP = f"""Compiled programs are kept for the next start in ~/.cache/instructblip_jax (below $XDG_CACHE_HOME, if that is
set), at most {BOUND // GIB} GiB; the least recently used are removed first. JAX_COMPILATION_CACHE_DIR=DIR keeps them in
DIR, without a limit (JAX_COMPILATION_CACHE_MAX_SIZE=BYTES sets one); JAX_COMPILATION_CACHE_DIR= (empty) keeps none."""


def use() -> str:
    """Set JAX's cache directory, unless the environment does. Returns why there is no cache, or "" if there is one."""
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(SECONDS))
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return ""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "instructblip_jax"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lockfile", timeout=10):  # the lock that JAX holds while it limits the size
            _remove_unfinished(folder)
        free = shutil.disk_usage(folder).free
    except (OSError, RuntimeError) as error:  # no home directory; not writable; a file system without locks
        return str(error)
    if free < SPARE:
        return f"{folder}: the disk has {free / GIB:.1f} GiB free, at least {SPARE / GIB:.0f} GiB is needed"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(BOUND))
    return ""


def _remove_unfinished(folder: Path) -> None:
    """Remove programs that have no access-time file: half-written ones (killed process, full disk) or very old ones.

    JAX could not read such a program, nor write any other one while it is there.
    """
    for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink()
