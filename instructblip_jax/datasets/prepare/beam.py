"""Shards written by Apache Beam: the same function, and therefore the same bytes, on any of the runner's workers.

The rows of a shard are passed as a file under the set's incomplete directory, which all workers must see (a shared file
system); the pipeline itself has only the files' names, for any size of the set.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from instructblip_jax.datasets.prepare.pool import Run
from instructblip_jax.datasets.prepare.shard import Job, write_shard

ROWS = "rows"
"""Directory of the rows that remain to be written; `finish` removes it."""


def runner(options: str) -> Run:
    """Write shards by a pipeline with these options: "--runner=DirectRunner --direct_num_workers=4 …".

    Raises ValueError if Beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError("--beam needs Apache Beam: pip install -e '.[beam]'") from error
    pipeline_options = PipelineOptions(options.split())

    def run(jobs: Iterator[Job]) -> Iterator[int]:
        waiting = [_spooled(job) for job in jobs]
        with beam.Pipeline(options=pipeline_options) as pipeline:
            _ = pipeline | beam.Create(waiting) | beam.Reshuffle() | beam.Map(_write)
        yield from ()

    return run


def _spooled(job: Job) -> Job:
    """The job with its rows in a file."""
    assert isinstance(job.payload, bytes)
    stem = Path(job.stem)
    path = stem.parent / ROWS / stem.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(job.payload)
    return dataclasses.replace(job, payload=path)


def _write(job: Job) -> int:
    rows = write_shard(job)
    if isinstance(job.payload, Path):
        job.payload.unlink(missing_ok=True)
    return rows
