"""A directory that is written completely or not at all: first under a temporary name, then renamed."""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_free(out: Path, *sources: Path) -> None:
    """Raise ValueError naming ``out`` unless it is absent or an empty directory, and none of ``sources``."""
    if ":/" in str(out):  # gs://bucket; a Path keeps only one of the slashes
        raise ValueError(f"{out}: only local directories are written; copy the finished one there")
    for source in sources:
        if out.resolve() == source.resolve():
            raise ValueError(f"{out}: is the source model; choose another directory to write")
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        raise ValueError(f"{out}: exists and is not a directory; choose another path")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; choose another directory, or remove this one first")
    if os.path.ismount(out):
        raise ValueError(f"{out}: is a mount point, which cannot be renamed into; choose a directory under it")


@contextlib.contextmanager
def new_directory(out: Path, size: int) -> Iterator[Path]:
    """Yield an empty directory next to ``out``; when the block ends it is synced and renamed to ``out``.

    ``size``: bytes that will be written. After an error the directory is removed. A killed process leaves
    ``.OUT-partial-XXXXXXXX`` behind, which the next process that writes ``out`` removes. Raises ValueError (see
    `check_free`), or OSError naming ``out`` where it cannot be written.
    """
    check_free(out)
    place = out.resolve()
    partial = place.with_name(f".{place.name}-partial-{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(place)
        partial.mkdir()
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror}: {error.filename})") from error
    try:
        with _held(partial):
            free = shutil.disk_usage(partial).free
            if size > free:
                raise OSError(errno.ENOSPC, f"{free / 1e9:.2f} GB are free")
            yield partial
            _sync(partial)
            os.rename(partial, place)
            _sync_one(place.parent)
    except OSError as error:
        if error.errno in _FULL:
            need = f"{size / 1e9:.2f} GB are needed; make room, or write to another disk"
            raise OSError(f"{out}: the disk is full ({error.strerror}); {need}") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[bool]:
    """Lock a directory while this process lives; yields False if another process has the lock, or locks do not work."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(handle)


def _remove_dead(place: Path) -> None:
    """Remove the partial directories of killed processes, whose locks are free."""
    for path in place.parent.glob(f".{glob.escape(place.name)}-partial-{'[0-9a-f]' * 8}"):
        with _held(path) as dead:
            if dead:
                shutil.rmtree(path, ignore_errors=True)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(directory: Path) -> None:
    for folder, _, files in os.walk(directory):
        for name in files:
            _sync_one(Path(folder, name))
        _sync_one(Path(folder))
