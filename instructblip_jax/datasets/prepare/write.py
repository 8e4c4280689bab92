"""Generated sets, which are not read from a release: the digits world, and tests."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.datasets.prepare.pool import Run, here
from instructblip_jax.datasets.prepare.shard import Chunk, Item

Make = Callable[[], Iterator[Record]]


def write(out: str | Path, name: str, splits: Mapping[str, Make]) -> dict[str, int]:
    """Write the set ``name`` (split -> maker of its records) under ``out``, in this process; returns split -> records.

    An existing set is left unchanged. Raises ValueError if no split has a record.
    """
    return write_made(out, name, {split: partial(_portions, make) for split, make in splits.items()}, here)


def _portions(make: Make) -> Iterator[Chunk]:
    portion: list[Item] = []
    for record in make():
        portion.append(record)
        if len(portion) == shards.LARGEST:
            yield portion
            portion = []
    if portion:
        yield portion


def write_made(
    out: str | Path,
    name: str,
    splits: Mapping[str, shards.Chunks],
    run: Run,
    progress: Callable[[int], None] = lambda rows: None,
) -> dict[str, int]:
    """`write` with the shards written by ``run``; ``progress`` is called with the number of records of each."""
    options = shards.Options(progress=progress, log=lambda line: None)
    report = shards.write_chunks(out, name, splits, run, options)
    return {split: own.written for split, own in report.splits.items()}
