"""Archives, tables that hold their pictures, and data sets of other libraries."""

import io
import json
import sys
import tarfile
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from own_files import drafts, json_lines, only, picture, png, read, rows

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers import inspect


def archive(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_shards_are_read_in_place(tmp_path):
    source = archive(
        tmp_path / "train-000.tar",
        [
            ("a/0001.png", png(1)),
            ("a/0001.txt", b"A box.\n"),
            ("a/0002.0.png", png(2)),
            ("a/0002.1.PNG", png(3)),
            ("a/0002.json", json.dumps({"question": "Same?", "answer": "no", "image": "http://x/y.png"}).encode()),
            ("0003.png", png(4)),
            ("0003.cls", b"7"),
            ("0004.png", png(5)),
            ("0005.png", png(6)),
            ("0005.txt", b"c\xf4ne"),
            ("0006.png", png(7)),
            ("0006.json", b"{"),
            ("../0007.png", png(8)),
            ("0008.txt", b"No picture."),
        ],
    )
    found = rows(source)
    records = [row for row in found if hasattr(row, "record")]
    assert [row.reason for row in found if not hasattr(row, "record")] == [
        "empty answer",
        "not UTF-8",
        "broken JSON",
        "path outside the image root",
        "no picture, recording or point cloud",
    ]
    caption, pair, kind = (row.record for row in records)
    assert (caption.uid, caption.answers, caption.task) == ("own/train/a/0001", ("A box.",), "caption")
    assert (pair.instruction, pair.answers) == ("Same?", ("no",))
    assert (kind.answers, kind.instruction) == (("7",), "What is in the picture?")
    data = source.read_bytes()
    held = [[data[media.offset : media.offset + media.size] for media in row.media] for row in records]
    assert held == [[png(1)], [png(2), png(3)], [png(4)]]


def test_an_archive_that_breaks_off_is_reported(tmp_path):
    whole = archive(tmp_path / "whole.tar", [("a.png", png()), ("a.txt", b"x"), ("b.png", png() * 400)]).read_bytes()
    (tmp_path / "train.tar").write_bytes(whole[: whole.index(png() * 400) + 600])
    with pytest.raises(ValueError, match=r"train\.tar: broken archive: unexpected end"):
        read(tmp_path / "train.tar")
    (tmp_path / "bad.tar").write_bytes(b"\x07" * 2000)
    with pytest.raises(ValueError, match=r"bad\.tar: broken archive"):
        read(tmp_path / "bad.tar")


def test_parquet_tables(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    values = [{"image": {"bytes": png(n), "path": f"/home/x/{n}.png"}, "label": n % 2, "page": 1.5} for n in range(3)]
    table = pa.Table.from_pylist(values).replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    found = read(tmp_path / "test-00000-of-00001.parquet")["test"]
    assert [row.media for row in found] == [(Media(data=png(n)),) for n in range(3)]
    record = found[1].record
    assert (record.answers, record.candidates, record.label) == (("dog",), ("cat", "dog"), 1)
    assert (record.task, record.uid, record.meta) == ("choice", "own/test/2", {"page": 1.5})

    picture(tmp_path / "a.png")
    values = [{"images": [{"bytes": png(1), "path": None}, {"bytes": png(2), "path": None}], "text": "Two."}]
    parquet.write_table(pa.Table.from_pylist(values), tmp_path / "list.parquet")
    assert only(tmp_path / "list.parquet").media == (Media(data=png(1)), Media(data=png(2)))
    parquet.write_table(pa.Table.from_pylist([{"image": "a.png", "caption": "x"}]), tmp_path / "paths.parquet")
    assert only(tmp_path / "paths.parquet").media == (Media(path=tmp_path / "a.png"),)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    with pytest.raises(ValueError, match=r"broken\.parquet: broken Parquet file"):
        read(tmp_path / "broken.parquet")


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        read(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        read(tmp_path / "a.parquet")


class Image:
    """The feature of that name, of the library `datasets`."""

    def __init__(self, decode=True):
        self.decode = decode


class ClassLabel:
    names = ("cat", "dog")


class Saved(list):
    """A data set of the library `datasets`, as far as it is used."""

    features = types.MappingProxyType({"image": Image(), "label": ClassLabel()})

    def cast_column(self, column, feature):
        assert (column, feature.decode) == ("image", False)
        return self


def test_data_saved_by_the_library_datasets(tmp_path, monkeypatch):
    parts = {
        "train": Saved([{"image": {"bytes": png(1), "path": None}, "label": 1}]),
        "validation": Saved([{"image": {"bytes": png(2), "path": None}, "label": 0}]),
    }
    library = types.SimpleNamespace(Image=Image, ClassLabel=ClassLabel, load_from_disk=lambda path: parts)
    monkeypatch.setitem(sys.modules, "datasets", library)
    (tmp_path / "dataset_dict.json").write_text("{}")
    found = read(tmp_path)
    assert list(found) == ["train", "validation"]
    assert found["train"][0].record.answers == ("dog",)
    assert found["validation"][0].media == (Media(data=png(2)),)


class Animals(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.2.0")
    name = "animals"
    pkg_dir_path = None
    url_infos = types.MappingProxyType({})

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                    "question": tfds.features.Text(),
                    "weight": tfds.features.Scalar(np.float32),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"picture": io.BytesIO(png(9)), "label": 1, "question": "Which is it?", "weight": 0.5}


def test_a_prepared_tfds_set(tmp_path, monkeypatch):
    builder = Animals(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = read("tfds:animals")
    assert list(found) == ["train", "test"]
    (draft,) = found["test"]
    record = draft.record
    assert draft.media == (Media(data=png(9)),)
    assert (record.instruction, record.answers, record.candidates) == ("Which is it?", ("dog",), ("cat", "dog"))
    assert (record.meta, record.label, record.uid) == ({"weight": 0.5}, 1, "own/test/0")
    assert len(drafts(f"tfds:{tmp_path}/animals/1.2.0")) == 2
    with pytest.raises(FileNotFoundError, match=r"tfds:plants: no dataset_info\.json in .*TFDS_DATA_DIR"):
        read("tfds:plants")


def test_a_look_at_a_release(tmp_path):
    picture(tmp_path / "a.png")
    given = [{"id": n // 2, "image": "a.png", "question": "W " * (n + 1), "answer": "x"} for n in range(10)]
    source = json_lines(tmp_path / "rows.jsonl", *given, {"image": "gone.png", "caption": "y z"}, "{", "{")
    splits = {"train": lambda: iter(rows(source))}
    part = inspect.summary(splits)["train"]
    assert (part["records"], part["skipped"], part["reasons"]) == (11, 2, {"broken JSON": 2})
    assert (part["missing_pictures"], part["duplicate_ids"]) == (1, 5)
    assert part["tasks"] == {"vqa": 10, "caption": 1}
    assert part["words"]["instruction"] == {"p50": 5, "p95": 10, "p99": 10, "p100": 10}
    assert part["words"]["answer"] == {"p50": 1, "p95": 2, "p99": 2, "p100": 2}
    assert len(part["examples"]) == 3
    text = inspect.report({"train": part})
    for words in ("11 records (10 vqa, 1 caption), 2 skipped", "broken JSON", "p95 10", "duplicate ids: 5"):
        assert words in text
