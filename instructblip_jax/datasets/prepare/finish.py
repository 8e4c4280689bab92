"""Finish writing a set: rename its shards, write its description, and remove all other files."""

import json
import os
import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from instructblip_jax.data.places import FEATURES, REPORT, SUFFIX, VERSION, VOCABULARY
from instructblip_jax.datasets.prepare.report import Report, new_report

SKIPPED = "skipped.jsonl"
"""The file next to the records with all skipped rows."""


def there(directory: Path, name: str) -> Report:
    """The report of a complete set."""
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
    """Rename the shards, write the description, remove everything else; only from `report.json`, so that it can be
    repeated after a kill."""
    for split in report.splits.values():
        # By number: until they are renamed, only the shards' files show which ones have records.
        stems = sorted(path.with_suffix("") for path in work.glob(f"{split.files}.*{SUFFIX}"))
        finals = [_final(work, report.name, split.files, n, len(split.shards)) for n in range(len(split.shards))]
        for final in finals[::-1]:  # the last first, so that the first ones remain after a kill
            if final.exists():
                continue
            os.replace(f"{stems.pop()}{SUFFIX}", final)
    _describe(work, report)
    keep = {"dataset_info.json", "features.json", REPORT, VOCABULARY}
    if any(split.skipped for split in report.splits.values()):
        keep.add(SKIPPED)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep and not path.name.startswith(f"{report.name}-"):
            path.unlink()


def _final(work: Path, name: str, split: str, number: int, count: int) -> Path:
    return work / f"{name}-{split}{SUFFIX}-{number:05d}-of-{count:05d}"


def _describe(work: Path, report: Report) -> None:
    """Write dataset_info.json and features.json, with which TFDS reads the set."""
    identity = tfds.core.dataset_info.DatasetIdentity(report.name, tfds.core.Version(VERSION), str(work), "")
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(FEATURES))
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        data_dir=work, dataset_name=report.name, filetype_suffix=SUFFIX.removeprefix(".")
    )
    info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split.files,
                    shard_lengths=split.shards,
                    num_bytes=split.bytes,
                    filename_template=template.replace(split=split.files),
                )
                for split in report.splits.values()
                if split.shards
            ]
        )
    )
    info.write_to_directory(work)
