"""Write the digits sets to a directory."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from instructblip_jax.data import prepared
from instructblip_jax.datasets.digits import naming, senses
from instructblip_jax.datasets.digits.records import make, split_size
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.prepare.pool import Pool
from instructblip_jax.datasets.prepare.shard import Chunk
from instructblip_jax.datasets.prepare.write import write_made

CHUNK = 1000
LOCK = ".prepare.lock"
MAKERS = dict.fromkeys(naming.SIZES, naming.make) | dict.fromkeys((*senses.SINGLE, *senses.CROSS), senses.make)
"""Set -> the function that makes its records, if it is not `records.make`."""
SETS = (*TASKS, *MAKERS)
"""All generated sets."""


def _chunks(name: str, split: str) -> Iterator[Chunk]:
    """One function per shard that makes its records: drawing is most of the work, so the writing process does it."""
    size = split_size(name, split)
    for start in range(0, size, CHUNK):
        yield partial(MAKERS.get(name, make), name, split, start, min(start + CHUNK, size))


def prepare_missing(out: str | Path, names: Sequence[str]) -> None:
    """Write the missing digits sets among ``names``, so that users need not prepare them."""
    prepare(out, [name for name in names if name in SETS])


def prepare(out: str | Path, names: Sequence[str] = tuple(TASKS)) -> dict[str, dict[str, int]]:
    """Write the missing sets among ``names``, with several processes.

    If several runs on one machine need them, one writes and the others wait. Returns set -> split -> number of
    records, for the sets that were written.
    """
    if all(prepared.is_prepared(out, name) for name in names):
        return {}
    Path(out).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(out) / LOCK):
        missing = [name for name in names if not prepared.is_prepared(out, name)]
        return _write(out, missing) if missing else {}


def _write(out: str | Path, missing: Sequence[str]) -> dict[str, dict[str, int]]:
    print(f"writing {len(missing)} digits sets to {out}", flush=True)
    counts: dict[str, dict[str, int]] = {}
    splits = {
        name: ["train", "validation", "test"] if split_size(name, "train") else ["validation", "test"]
        for name in missing
    }
    total = sum(split_size(name, split) for name in missing for split in splits[name])
    with Pool() as pool, tqdm(total=total, desc="digits scenes", unit="scene") as bar:
        for name in missing:
            parts = {split: partial(_chunks, name, split) for split in splits[name]}
            counts[name] = write_made(out, name, parts, pool.run, bar.update)
    return counts
