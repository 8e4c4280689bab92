"""Prepared sets of version 2.0.0, which held pictures alone: read as they are, never rewritten.

`older_set.zip` holds one that version 2.0.0 of the writer made.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data import prepared
from instructblip_jax.data.places import OLDER, VERSION, directory_of, is_prepared
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.datasets import annotations
from instructblip_jax.datasets.draft import Draft
from instructblip_jax.datasets.prepare import shards


def png(grey: int) -> Medium:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(buffer, "PNG")
    return Medium("image", buffer.getvalue())


def wanted(number: int, pictures: int) -> Record:
    return Record(
        f"older/train/{number}",
        "older",
        "train",
        "vqa",
        tuple(png(10 * number + n) for n in range(pictures)),
        {"question": f"é {number}?"},
        ("a", f"b{number}"),
        weights=(0.75, 0.25),
        question_id=number,
        meta={"n": number},
    )


TRAIN = [wanted(number, pictures) for number, pictures in enumerate((1, 2, 0, 2))]
TRAIN += [Record("older/train/5", "older", "train", "dialog", (png(99),), {}, (), turns=(("q", "a"), ("r", "b")))]


@pytest.fixture
def out(tmp_path):
    shutil.unpack_archive(Path(__file__).with_name("older_set.zip"), tmp_path)
    return tmp_path


def contents(out) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (out / "older" / OLDER).iterdir()}


def new_rows():
    yield Draft("f:1", Record("u", "older", "train", "vqa", (), {}, ("new",)))


def test_it_is_read_record_for_record(out):
    before = contents(out)
    assert is_prepared(out, "older")
    assert directory_of(out, "older") == out / "older" / OLDER
    assert prepared.sizes(out, "older") == {"train": 5, "zeroshot_val": 2}
    assert prepared.vocabulary(out, "older") == ["a", "b"]
    train = prepared.open_set(out, "older", "train")
    assert list(train) == TRAIN
    assert [train.shown.of(n) for n in range(5)] == [record.kinds for record in TRAIN]
    assert train.digest == "63fb85bb845b3a5e7f527d2e007b24ef"
    val = prepared.open_set(out, "older", "zeroshot/val")
    assert [record.media for record in val] == [
        (Medium("image", png(200 + n).data + b"\0\0"),) for n in range(2)
    ]  # stored with zeros at the end
    assert contents(out) == before


def test_preparing_leaves_it_and_knows_what_it_was_made_from(out):
    before = contents(out)
    report = shards.write(out, "older", {"train": new_rows}, shards.Options(), 1)
    assert report.kept
    assert report.directory == str(out / "older" / OLDER)
    assert report.configuration == {"frames": 4, "source": "rows"}
    assert report.splits["train"].by_kinds == {"": 1, "image": 2, "image image": 2}
    assert report.splits["train"].digest == "63fb85bb845b3a5e7f527d2e007b24ef"
    assert "1 row shows no picture, 2 rows show 1 picture, 2 rows show 2 pictures" in "\n".join(report.lines())
    assert contents(out) == before
    changed, note = annotations.changes(out, "older", {"frames": 8, "files": {}})
    assert changed == ["--frames was 4 and is 8"]
    assert "an earlier version made it" in note


def test_overwriting_replaces_it_when_the_new_one_is_whole(out):
    def failing():
        yield from new_rows()
        raise OSError("not yet")

    before = contents(out)
    with pytest.raises(OSError, match="not yet"):
        shards.write(out, "older", {"train": failing}, shards.Options(overwrite=True), 1)
    assert contents(out) == before
    assert len(prepared.open_set(out, "older", "train")) == 5
    options = shards.Options(overwrite=True, log=lambda line: None)
    report = shards.write(out, "older", {"train": new_rows}, options, 1)
    assert report.directory == str(directory_of(out, "older")) == str(out / "older" / VERSION)
    assert [record.answers for record in prepared.open_set(out, "older", "train")] == [("new",)]
    assert [path.name for path in (out / "older").iterdir()] == [VERSION]


def test_the_new_version_is_read_where_both_are(out):
    shards.write(out / "elsewhere", "older", {"train": new_rows}, shards.Options(), 1)
    shutil.move(out / "elsewhere" / "older" / VERSION, out / "older")
    assert [record.uid for record in prepared.open_set(out, "older", "train")] == ["u"]


def test_what_an_older_writer_began_is_begun_anew(out):
    shutil.rmtree(out / "older" / OLDER)
    begun = out / "older" / f"{OLDER}.incomplete"
    begun.mkdir()
    (begun / "train.000000.array_record").write_bytes(b"half")
    lines: list[str] = []
    shards.write(out, "older", {"train": new_rows}, shards.Options(log=lines.append), 1)
    assert lines == [f"older: what is in {begun} was begun by an earlier version; starting anew"]
    assert [path.name for path in (out / "older").iterdir()] == [VERSION]


@pytest.mark.parametrize("version", ["1.0.0", "4.1.0"])
def test_another_version_is_named_with_the_remedy(out, version):
    (out / "older" / OLDER).rename(out / "older" / version)
    assert not is_prepared(out, "older")
    with pytest.raises(ValueError, match=f"holds the set in version {version}, and versions 3.0.0 and 2.0.0") as caught:
        prepared.open_set(out, "older", "train")
    assert f"`instructblip prepare older --out {out}`" in str(caught.value)
    # The remedy works, and leaves what is there.
    shards.write(out, "older", {"train": new_rows}, shards.Options(), 1)
    assert len(prepared.open_set(out, "older", "train")) == 1
    assert json.loads((out / "older" / version / "dataset_info.json").read_text())["version"] == "2.0.0"
