"""Runs `instructblip capfilt`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from instructblip_jax import comparing, distributed, files, hub
from instructblip_jax.capfilt import hosts
from instructblip_jax.capfilt.kept import Rule, counted, drafts
from instructblip_jax.capfilt.models import Captioner, Filter, Models
from instructblip_jax.capfilt.pairs import pairs as pairs_of
from instructblip_jax.capfilt.parts import Outcome, Part, parts
from instructblip_jax.command_lines.capfilt import generation
from instructblip_jax.data import prepared
from instructblip_jax.datasets import annotations
from instructblip_jax.datasets.digits.prepare import SETS
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.datasets.prepare.finish import there
from instructblip_jax.datasets.readers.releases import RELEASES
from instructblip_jax.mesh import make_mesh
from instructblip_jax.model import Model
from instructblip_jax.processor import Processor
from instructblip_jax.processors.pairs import PairProcessor
from instructblip_jax.run.checkpoint import fingerprint

FLAGS = flags.FLAGS
PART = 8
"""Batches per part, the work that is lost when a process is killed."""


def run(args: Sequence[str]) -> None:
    """Score all texts, each process those of its parts; then process 0 writes the set and the report."""
    distributed.start()
    sources, images = ([Path(path).resolve() for path in given] for given in (FLAGS.source, FLAGS.images))
    name = FLAGS.name or "capfilt_" + re.sub(r"\W", "_", sources[0].stem, flags=re.ASCII).lower()
    shards.check_name(name)
    if name in RELEASES or name in SETS:
        raise ValueError(f"--name {name}: is the name of a known dataset; choose another name")
    folder = prepared.directory_of(FLAGS.out, name).parent / "texts"
    captioner, judge = hub.resolve(FLAGS.captioner), hub.resolve(FLAGS.filter)
    settings = {
        "captioner": fingerprint(captioner),
        "filter": fingerprint(judge),
        "prompt": FLAGS.prompt,
        "captions": FLAGS.captions,
        **generation(),
        **{flag: FLAGS[flag].value for flag in ("seed", "batch_size", "dtype")},
    }
    configuration = {
        **settings,
        "threshold": FLAGS.threshold,
        "keep": FLAGS.keep,
        "source": list(map(str, sources)),
        "images": list(map(str, images)),
        "files": _files(sources),
    }
    made = prepared.is_prepared(FLAGS.out, name)
    if made and not FLAGS.overwrite:
        _check_same(name, configuration)
    rows = pairs_of(sources, images, name)
    again = partial(parts, rows, PART * FLAGS.batch_size, folder, settings)
    with hosts.together(folder):
        if not made or FLAGS.overwrite:
            _judge(again(), captioner, judge)
        if distributed.is_writer():
            _write(name, again, configuration)


def _files(sources: Sequence[Path]) -> dict[str, str]:
    """File -> digest, for the annotation files of all sources."""
    out = Path(FLAGS.out).resolve()
    return {
        f"{source}: {file}": digest
        for source in sources
        for file, digest in annotations.of_source(source, out, custom=True).items()
    }


def _check_same(name: str, configuration: Mapping[str, Any]) -> None:
    """Raise ValueError for a set that was made with different inputs."""
    directory = prepared.directory_of(FLAGS.out, name)
    before = there(directory, name).configuration
    changed = [key for key, value in configuration.items() if before.get(key) != value]
    if changed:
        raise ValueError(
            f"{directory}: was made with a different {', '.join(changed)}; --overwrite makes it again; or choose --name"
        )


def _judge(found: Iterator[Part], captioner: Path, judge: Path) -> None:
    """Caption and score the missing parts of this process."""
    missing = (
        part for part in found if part.number % jax.process_count() == distributed.index() and part.read() is None
    )
    first = next(missing, None)
    if first is None:
        return
    models = _models(captioner, judge)

    def rest() -> Iterator[Part]:
        yield first
        yield from missing

    with tqdm(desc="capfilt", unit="picture", disable=None if distributed.is_writer() else True) as bar:
        for part, outcomes in models.outcomes(rest()):
            part.write(outcomes)
            bar.update(len(outcomes))


def _models(captioner: Path, judge: Path) -> Models:
    """Both models, on the devices of this host. Raises ValueError for a system that cannot do its task."""
    mesh = make_mesh(data=-1, fsdp=FLAGS.fsdp, devices=jax.local_devices())
    writes = Model.from_pretrained(captioner, mesh, FLAGS.dtype)
    compares = writes if judge == captioner else Model.from_pretrained(judge, mesh, FLAGS.dtype)
    if not writes.has("prefill"):
        raise ValueError(f"--captioner {captioner}: this system generates no text")
    reads, pairs = Processor.from_pretrained(captioner), Processor.from_pretrained(judge)
    comparing.check(compares, pairs)
    assert isinstance(pairs, PairProcessor)
    reads.checked(FLAGS.prompt, "instructions", 1)
    return Models(
        Captioner(writes, reads, FLAGS.prompt, FLAGS.captions, generation()),
        Filter(compares, pairs),
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
    )


def _write(name: str, again: Any, configuration: Mapping[str, Any]) -> None:
    """Write the set of kept texts once all parts exist; print the report, and write it as JSON."""
    rule = Rule(FLAGS.threshold, FLAGS.keep)
    with tqdm(desc=name, unit="row", unit_scale=True, disable=None) as bar:
        options = shards.Options(
            configuration=configuration, overwrite=FLAGS.overwrite, progress=bar.update, log=bar.write
        )
        rows = {"train": lambda: drafts(again(), _outcomes, rule)}
        report = shards.write(FLAGS.out, name, rows, options, FLAGS.workers)
    counts = counted(again(), rule)
    print("\n".join([*counts.lines(), "", *report.lines()]))
    if report.kept:
        print(f"{name}: already complete, left unchanged; --overwrite makes it again")
    if FLAGS.json:
        split = report.splits["train"]
        skipped = {"read": split.rows, "written": split.written, "skipped": split.skipped, "reasons": split.reasons}
        files.write_json(FLAGS.json, {**counts.to_json(), **skipped, "directory": report.directory})


def _outcomes(part: Part) -> list[Outcome]:
    """The results of a part, which another host may still be computing."""
    return hosts.awaited(part.read)
