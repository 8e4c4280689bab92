"""The end of writing a set: what lies in its incomplete directory gets its names, is described, and the rest goes."""

import json
import os
import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from instructblip_jax.data.places import FEATURES, VERSION
from instructblip_jax.datasets.prepare.report import Report, new_report
from instructblip_jax.datasets.prepare.shard import SUFFIX

REPORT, SKIPPED, VOCABULARY = "report.json", "skipped.jsonl", "vocabulary.json"
"""What lies beside the records: counts; each row that is no record; the answers that are ranked, of a set with such."""


def there(directory: Path, name: str) -> Report:
    """What is told of a set that is whole."""
    try:
        report = Report.from_json(json.loads((directory / REPORT).read_bytes()))
    except (OSError, ValueError):  # written by an earlier version of this package, or another tool
        splits = tfds.builder_from_directory(str(directory)).info.splits
        report = new_report(name, {}, dict.fromkeys(splits))
        for split, info in splits.items():
            report.splits[split].rows = report.splits[split].written = info.num_examples
    report.directory, report.kept = str(directory), True
    return report


def finish(work: Path, report: Report) -> None:
    """Shards get their names, the description is written, all else removed; from `report.json` alone, so that it can be
    done again."""
    for told in report.splits.values():
        # By number: which of them hold records is known from their files only until these have their names.
        stems = sorted(path.with_suffix("") for path in work.glob(f"{told.files}.*{SUFFIX}"))
        finals = [_final(work, report.name, told.files, n, len(told.shards)) for n in range(len(told.shards))]
        for final in finals[::-1]:  # the last first: those that are left are the first ones
            if final.exists():
                continue
            os.replace(f"{stems.pop()}{SUFFIX}", final)
    _describe(work, report)
    keep = {"dataset_info.json", "features.json", REPORT, VOCABULARY}
    if any(told.skipped for told in report.splits.values()):
        keep.add(SKIPPED)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep and not path.name.startswith(f"{report.name}-"):
            path.unlink()


def _final(work: Path, name: str, split: str, number: int, count: int) -> Path:
    return work / f"{name}-{split}{SUFFIX}-{number:05d}-of-{count:05d}"


def _describe(work: Path, report: Report) -> None:
    """dataset_info.json and features.json, by which TFDS knows the set."""
    identity = tfds.core.dataset_info.DatasetIdentity(report.name, VERSION, str(work), "")
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(FEATURES))
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        data_dir=work, dataset_name=report.name, filetype_suffix=SUFFIX.removeprefix(".")
    )
    info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=told.files,
                    shard_lengths=told.shards,
                    num_bytes=told.bytes,
                    filename_template=template.replace(split=told.files),
                )
                for told in report.splits.values()
                if told.shards
            ]
        )
    )
    info.write_to_directory(work)
