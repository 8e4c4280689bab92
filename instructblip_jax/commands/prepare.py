"""A data set into sharded ArrayRecord (a TFDS data set): instructblip prepare NAME --source DIR --out DIR [--json FILE]

NAME is digits, the embedded world (all its task sets, drawn from scikit-learn's scans, without a --source); one of the
known data sets, whose official files lie in --source and their pictures there or in --images; or custom, your own
files. A set that is there is left as it is, and refused where its annotation files or the flags that decide what is in
it are others now; --overwrite makes it anew. What was broken off is gone on with by the same command. Rows that cannot
be read are left out and reported: in a table, in report.json and skipped.jsonl beside the records, and with --json.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from instructblip_jax import files
from instructblip_jax.data import annotations, builder
from instructblip_jax.data.digits.prepare import prepare
from instructblip_jax.data.digits.tasks import TASKS
from instructblip_jax.data.draft import Release
from instructblip_jax.data.media.load import FRAMES
from instructblip_jax.data.prepare import shards
from instructblip_jax.data.prepare.report import Report
from instructblip_jax.data.readers import inspect

FLAGS = flags.FLAGS
CUSTOM = ("name", "format", "encoding", "validation")
"""Flags that are handed on to the reader of the user's own files."""


def define_flags(argv: Sequence[str]) -> None:
    """This command's flags."""
    flags.DEFINE_string("out", None, "Directory to write the sets under.")
    flags.DEFINE_string("source", None, "Directory of the data set's official files; of custom, a file or directory.")
    flags.DEFINE_multi_string(
        "images", [], "Directory of pictures or videos; may be repeated. Default: the official place."
    )
    flags.DEFINE_integer("frames", FRAMES, "Frames taken of a video.", lower_bound=1, upper_bound=256)
    flags.DEFINE_float("max_skipped", 1.0, "Share of rows that may be skipped; with more, no set is made.", 0.0, 1.0)
    flags.DEFINE_integer("workers", None, "Processes that read pictures and write. Default: one a core.", lower_bound=1)
    flags.DEFINE_string("beam", None, "Have Apache Beam write, with these pipeline options: --beam='--runner=…'.")
    flags.DEFINE_string("name", None, "custom: the set's name. Default: the source's.")
    flags.DEFINE_string("format", None, "custom: what the files are, if it is not to be guessed.")
    flags.DEFINE_string("encoding", None, "custom: of the text. Default: UTF-8.")
    flags.DEFINE_float("validation", 0.0, "custom: share of the pictures kept for validation.", 0.0, 0.9)
    flags.DEFINE_bool("overwrite", False, "Make a set that is there anew; it stays until the new one is whole.")
    flags.DEFINE_bool("inspect", False, "Tell what is there, and write nothing; --out is not needed.")
    flags.DEFINE_string("json", None, "Also write the report here, for programs.")


def check_flags(args: Sequence[str]) -> None:
    """Raise ValueError for a wrong command line."""
    if len(args) != 1 or (args[0] not in ("digits", "custom") and args[0] not in releases()):
        names = ", ".join(["digits", "custom", *releases()])
        raise ValueError(f"one NAME is needed, of {names}; not {' '.join(args) or 'none'}")
    if not FLAGS.out and not FLAGS.inspect:
        raise ValueError("--out is needed")
    if args[0] == "digits" and FLAGS.source:
        raise ValueError("digits is drawn, and takes no --source")
    if args[0] == "digits" and FLAGS.overwrite:
        raise ValueError("digits is drawn, always the same, and takes no --overwrite")
    files.check_json(FLAGS.json)
    if args[0] != "digits" and not FLAGS.source:
        raise ValueError(f"--source is needed: where the files of {args[0]} lie")
    foreign = [name for name in CUSTOM if FLAGS[name].present]
    if args[0] != "custom" and foreign:
        raise ValueError(f"--{foreign[0]} is for custom sets alone")


def releases() -> Mapping[str, Release]:
    """The known data sets."""
    from instructblip_jax.data.readers.releases import RELEASES  # many readers, needed here alone

    return RELEASES


def run(args: Sequence[str]) -> None:
    """Write what is missing and report it."""
    report = _digits() if args[0] == "digits" else _release(args[0])
    if FLAGS.json:
        files.write_json(FLAGS.json, report)


def _digits() -> dict[str, Any]:
    written = prepare(FLAGS.out)
    splits = {}
    for name in TASKS:
        for split, count in builder.sizes(FLAGS.out, name).items():
            splits[f"{name}/{split}"] = {"written": count, "skipped": 0, "reasons": {}}
            print(f"{name + '/' + split:<28} {count:>7,} records{'' if name in written else ', there already'}")
    return {"splits": splits}


def _release(name: str) -> dict[str, Any]:
    prepared = name == "custom" and FLAGS.source.startswith("tfds:")  # no file of its own
    source = Path(FLAGS.source) if prepared else Path(FLAGS.source).resolve()
    images = [Path(path).resolve() for path in FLAGS.images]
    for path in images if prepared else (source, *images):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or directory")
    configuration: dict[str, Any] = {"source": str(source), "images": [str(path) for path in images]}
    own = name == "custom"
    if own:
        from instructblip_jax.data.readers import custom

        name = FLAGS.name or re.sub(r"\W", "_", source.stem, flags=re.ASCII).lower()
        if name in releases() or name in TASKS:
            raise ValueError(f"--name {name}: that is a known set's; choose another name for yours")
        given = {flag: FLAGS[flag].value for flag in CUSTOM} | {"name": name}
        configuration |= given
        release = custom.release(source, images, **given)
    else:
        release = releases()[name]
    if FLAGS.inspect:
        found = inspect.summary(release.splits(source, images))
        print(inspect.report(found))
        return {"splits": found}
    Path(FLAGS.out).mkdir(parents=True, exist_ok=True)  # what cannot be made is told before anything is read
    configuration |= {
        "frames": FLAGS.frames,
        "files": annotations.of_source(source, Path(FLAGS.out).resolve(), custom=own),
    }
    changed, unknown = ([], "") if FLAGS.overwrite else annotations.changes(FLAGS.out, name, configuration)
    if changed:
        raise ValueError(
            f"{builder.directory_of(FLAGS.out, name)}: was prepared from something else: {'; '.join(changed)}. "
            "--overwrite makes it anew"
        )
    report = write(name, release, source, images, configuration)
    print("\n".join(report.lines()))
    notes = list(report.notes())
    if report.kept:
        print(f"{name}: there already, whole, and left as it is; --overwrite makes it anew")
        notes += [unknown] if unknown else []
        print(f"note: {unknown}" if unknown else "note: its annotation files and flags are still the same")
    return {
        "splits": {
            split: {
                "written": told.written,
                "skipped": told.skipped,
                "reasons": told.reasons,
                "repeated": told.repeated,
            }
            for split, told in report.splits.items()
        },
        "directory": report.directory,
        "kept": report.kept,
        "notes": notes,
    }


def write(
    name: str, release: Release, source: Path, images: Sequence[Path], configuration: Mapping[str, Any]
) -> Report:
    """The release's rows as a set, with a bar."""
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
            say=bar.write,
        )
        if FLAGS.beam is None:
            return shards.write(FLAGS.out, name, splits, options, FLAGS.workers)
        from instructblip_jax.data.prepare import beam  # an extra

        return shards.write(FLAGS.out, name, splits, options, run=beam.runner(FLAGS.beam))
