"""The digits sets, written under a directory."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from instructblip_jax.data import builder
from instructblip_jax.data.digits.records import make, split_size
from instructblip_jax.data.digits.tasks import HELD_IN, TASKS

CHUNK = 1000
LOCK = ".prepare.lock"


def _chunks(name: str, split: str) -> list[tuple[str, str, int, int]]:
    size = split_size(name, split)
    return [(name, split, start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]


def _make(chunk: tuple[str, str, int, int]) -> list:
    return list(make(*chunk))


def prepare_missing(out: str | Path, names: Sequence[str]) -> None:
    """Write those of ``names`` that are digits sets and not there yet: the embedded world needs no preparing."""
    prepare(out, [name for name in names if name in TASKS])


def prepare(out: str | Path, names: Sequence[str] = tuple(TASKS)) -> dict[str, dict[str, int]]:
    """Write the sets ``names`` that are not there yet, by several processes; set -> split -> records, of these.

    Where several runs on a machine want them, one writes and the others wait.
    """
    if all(builder.is_prepared(out, name) for name in names):
        return {}
    Path(out).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(out) / LOCK):
        missing = [name for name in names if not builder.is_prepared(out, name)]
        return _write(out, missing) if missing else {}


def _write(out: str | Path, missing: Sequence[str]) -> dict[str, dict[str, int]]:
    print(f"writing {len(missing)} digits sets to {out}", flush=True)
    counts: dict[str, dict[str, int]] = {}
    splits = {name: ["train", "validation", "test"] if name in HELD_IN else ["validation", "test"] for name in missing}
    total = sum(split_size(name, split) for name in missing for split in splits[name])
    # Fresh processes: the parent may hold jax's threads, which do not survive a fork.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(mp_context=context) as pool, tqdm(total=total, desc="digits scenes", unit="scene") as bar:

        def records(name: str, split: str):
            for part in pool.map(_make, _chunks(name, split)):
                yield from part
                bar.update(len(part))

        for name in missing:
            counts[name] = builder.write(out, name, {split: partial(records, name, split) for split in splits[name]})
    return counts
