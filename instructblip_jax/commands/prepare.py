"""Runs `instructblip prepare`."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from instructblip_jax import files
from instructblip_jax.command_lines.prepare import CUSTOM
from instructblip_jax.data import prepared
from instructblip_jax.datasets import annotations
from instructblip_jax.datasets.digits.prepare import SETS, prepare
from instructblip_jax.datasets.digits.tasks import TASKS
from instructblip_jax.datasets.draft import Release
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.datasets.prepare.report import Report
from instructblip_jax.datasets.readers import inspect
from instructblip_jax.datasets.readers.releases import RELEASES

FLAGS = flags.FLAGS


def run(args: Sequence[str]) -> None:
    """Prepare the dataset named in ``args``, print a report, and write it as JSON if --json is given."""
    report = _digits() if args[0] == "digits" else _made(args[0]) if FLAGS.make_questions else _release(args[0])
    if FLAGS.json:
        files.write_json(FLAGS.json, report)


def _digits() -> dict[str, Any]:
    written = prepare(FLAGS.out)
    splits = {}
    for name in TASKS:
        for split, count in prepared.sizes(FLAGS.out, name).items():
            splits[f"{name}/{split}"] = {"written": count, "skipped": 0, "reasons": {}}
            print(f"{name + '/' + split:<28} {count:>7,} records{'' if name in written else ', there already'}")
    return {"splits": splits}


def _made(name: str) -> dict[str, Any]:
    """Generate the questions of the set ``name`` from captions, and report how many passed the checks."""
    from instructblip_jax.asking.make import MADE, make
    from instructblip_jax.asking.writer import Writer
    from instructblip_jax.mesh import make_mesh

    source, images = Path(FLAGS.source).resolve(), [Path(path).resolve() for path in FLAGS.images]
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or directory")
    splits = RELEASES[MADE[name].captions].splits(source, images)
    write = Writer.open(FLAGS.make_questions, make_mesh(1, -1))
    report = make(name, splits, write, str(Path(FLAGS.make_questions).resolve()), Path(FLAGS.out))
    for file, counts in report.items():
        print(f"{Path(FLAGS.out) / file}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return {"files": report}


def _release(name: str) -> dict[str, Any]:
    from_tfds = name == "custom" and FLAGS.source.startswith("tfds:")  # not a file
    source = Path(FLAGS.source) if from_tfds else Path(FLAGS.source).resolve()
    images = [Path(path).resolve() for path in FLAGS.images]
    for path in images if from_tfds else (source, *images):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or directory")
    configuration: dict[str, Any] = {"source": str(source), "images": [str(path) for path in images]}
    own = name == "custom"
    if own:
        from instructblip_jax.datasets.readers import custom

        name = FLAGS.name or re.sub(r"\W", "_", source.stem, flags=re.ASCII).lower()
        if name in RELEASES or name in SETS:
            raise ValueError(f"--name {name}: is the name of a known dataset; choose another name")
        given = {flag: FLAGS[flag].value for flag in CUSTOM} | {"name": name}
        configuration |= given
        release = custom.release(source, images, **given)
    else:
        release = RELEASES[name]
    if FLAGS.inspect:
        found = inspect.summary(release.splits(source, images))
        print(inspect.report(found))
        return {"splits": found}
    Path(FLAGS.out).mkdir(parents=True, exist_ok=True)  # fail before anything is read
    configuration |= {
        "frames": FLAGS.frames,
        "files": annotations.of_source(source, Path(FLAGS.out).resolve(), custom=own),
    }
    changed, unknown = ([], "") if FLAGS.overwrite else annotations.changes(FLAGS.out, name, configuration)
    if changed:
        raise ValueError(
            f"{prepared.directory_of(FLAGS.out, name)}: was prepared from different inputs: {'; '.join(changed)}. "
            "--overwrite builds it again"
        )
    report = write(name, release, source, images, configuration)
    print("\n".join(report.lines()))
    notes = list(report.notes())
    if report.kept:
        print(f"{name}: already complete, left unchanged; --overwrite builds it again")
        notes += [unknown] if unknown else []
        print(f"note: {unknown}" if unknown else "note: its annotation files and flags are still the same")
    return {
        "splits": {
            split: {
                "written": part.written,
                "skipped": part.skipped,
                "reasons": part.reasons,
                "repeated": part.repeated,
            }
            for split, part in report.splits.items()
        },
        "directory": report.directory,
        "kept": report.kept,
        "notes": notes,
    }


def write(
    name: str, release: Release, source: Path, images: Sequence[Path], configuration: Mapping[str, Any]
) -> Report:
    """Write the release's records as a prepared set, with a progress bar."""
    splits = release.splits(source, images)
    known = [release.expected.get(split) for split in splits]
    total = sum(count for count in known if count is not None) if None not in known else None
    with tqdm(total=total, desc=name, unit="row", unit_scale=True, disable=None) as bar:
        options = shards.Options(
            frames=FLAGS.frames,
            configuration=configuration,
            overwrite=FLAGS.overwrite,
            expected=release.expected,
            vocabulary=release.vocabulary and partial(release.vocabulary, source),
            max_skipped=FLAGS.max_skipped,
            progress=bar.update,
            log=bar.write,
        )
        if FLAGS.beam is None:
            return shards.write(FLAGS.out, name, splits, options, FLAGS.workers)
        from instructblip_jax.datasets.prepare import beam

        return shards.write(FLAGS.out, name, splits, options, run=beam.runner(FLAGS.beam))
