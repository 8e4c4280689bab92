"""Prepared sets: written whole or not at all, read back record for record."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data import prepared
from instructblip_jax.data.prepared import open_set
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.datasets.prepare.write import write


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 7, 3), grey, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(data: bytes, count: int) -> tuple[Medium, ...]:
    return (Medium("image", data),) * count


def records(name: str, split: str, count: int) -> list[Record]:
    return [
        Record(
            f"{name}/{split}/{n}",
            name,
            split,
            "vqa",
            (Medium("image", png(n % 250)),),
            {"n": str(n), "é": "\n"},
            ("a", str(n)),
            meta={"n": n},
        )
        for n in range(count)
    ]


def test_what_was_written_is_read_back(tmp_path):
    want = {split: records("own_set", split, count) for split, count in (("train", 57), ("test", 3))}
    counts = write(tmp_path, "own_set", {split: lambda s=split: iter(want[s]) for split in want})
    assert counts == {"train": 57, "test": 3}
    assert prepared.is_prepared(tmp_path, "own_set")
    for split, expected in want.items():
        source = prepared.open_set(tmp_path, "own_set", split)
        assert len(source) == len(expected)
        got = {record.uid: record for record in (source[n] for n in range(len(source)))}
        assert got == {record.uid: record for record in expected}
        assert source[1] == source[1]
    kinds = {
        path.name.split(".")[1].split("-")[0] for path in prepared.directory_of(tmp_path, "own_set").glob("own_set-*")
    }
    assert kinds == {"array_record"}


def test_other_tools_read_the_set_without_this_package(tmp_path):
    import tensorflow_datasets as tfds

    write(tmp_path, "own_set", {"train": lambda: iter(records("own_set", "train", 4))})
    read = tfds.builder_from_directory(prepared.directory_of(tmp_path, "own_set"))
    assert read.info.splits["train"].num_examples == 4
    example = read.as_data_source("train")[0]
    assert list(example["media"]) == [png(0)]
    assert Record.from_json(example["record"], example["media"]) == records("own_set", "train", 1)[0]


def test_a_set_that_is_there_is_left_as_it_is(tmp_path):
    write(tmp_path, "own_set", {"train": lambda: iter(records("own_set", "train", 4))})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def unwanted():
        raise AssertionError("made again")
        yield

    assert write(tmp_path, "own_set", {"train": unwanted}) == {"train": 4}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_maker_that_fails_leaves_nothing_prepared_and_can_be_repeated(tmp_path):
    def failing():
        yield from records("own_set", "test", 2)
        raise OSError("the disk is full")

    splits = {"train": lambda: iter(records("own_set", "train", 4)), "test": failing}
    with pytest.raises(OSError, match="the disk is full"):
        write(tmp_path, "own_set", splits)
    assert not prepared.is_prepared(tmp_path, "own_set")
    assert not prepared.directory_of(tmp_path, "own_set").exists()
    with pytest.raises(FileNotFoundError, match="no such prepared set"):
        prepared.open_set(tmp_path, "own_set", "train")
    splits["test"] = lambda: iter(records("own_set", "test", 2))
    assert write(tmp_path, "own_set", splits) == {"train": 4, "test": 2}


def test_what_a_killed_writer_left_is_not_taken_for_a_set(tmp_path):
    """A kill leaves the directory that is renamed at the end."""
    left = tmp_path / "own_set" / "3.0.0.incomplete"
    left.mkdir(parents=True)
    (left / "train.000000.array_record").write_bytes(b"half")
    (left / "own_set-train.array_record-00000-of-00001").write_bytes(b"half")
    (left / "dataset_info.json").write_text("{}")
    assert not prepared.is_prepared(tmp_path, "own_set")
    assert write(tmp_path, "own_set", {"train": lambda: iter(records("own_set", "train", 4))}) == {"train": 4}
    assert len(prepared.open_set(tmp_path, "own_set", "train")) == 4


def test_a_split_without_records_is_left_out_and_a_set_without_any_is_refused(tmp_path):
    splits = {"train": lambda: iter(records("own_set", "train", 4)), "test": lambda: iter(())}
    assert write(tmp_path, "own_set", splits) == {"train": 4, "test": 0}
    assert prepared.sizes(tmp_path, "own_set") == {"train": 4}
    with pytest.raises(ValueError, match=r"nothing: no row in any split \(train, test\)"):
        write(tmp_path, "nothing", {"train": lambda: iter(()), "test": lambda: iter(())})
    assert not prepared.is_prepared(tmp_path, "nothing")


def test_a_split_is_found_by_its_official_name(tmp_path):
    write(tmp_path, "own_set", {"zeroshot/test-dev": lambda: iter(records("own_set", "x", 3))})
    assert prepared.sizes(tmp_path, "own_set") == {"zeroshot_test_dev": 3}
    for split in ("zeroshot/test-dev", "zeroshot_test_dev"):
        assert [record.uid for record in map(prepared.open_set(tmp_path, "own_set", split).__getitem__, range(3))]


def test_records_are_stored_in_order_whatever_their_pictures_end_in(tmp_path):
    """A picture's last bytes may be zeros, and a record may have none."""
    want = [
        Record(f"u{n}", "own_set", "train", "vqa", pictures(png(3) + b"\0" * n, n % 3), {}, ("a",)) for n in range(9)
    ]
    write(tmp_path, "own_set", {"train": lambda: iter(want)})
    source = prepared.open_set(tmp_path, "own_set", "train")
    assert [source[n] for n in range(9)] == want


def test_a_directory_without_a_set_names_it_and_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        prepared.open_set(tmp_path, "nothing", "train")
    message = str(caught.value)
    assert str(tmp_path / "nothing") in message
    assert "instructblip prepare" in message


def test_a_split_that_is_not_there_names_those_that_are(prepared):
    with pytest.raises(ValueError, match=r"no split 'trian'; it has .*train.*validation") as caught:
        open_set(prepared, "count", "trian")
    assert str(prepared) in str(caught.value)


def test_truncated_files_are_told_with_the_directory(tmp_path):
    write(tmp_path, "own_set", {"train": lambda: iter(records("own_set", "train", 40))})
    directory = prepared.directory_of(tmp_path, "own_set")
    (file,) = directory.glob("*.array_record*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="is corrupt") as caught:  # noqa: PT012  (where it is noticed is the library's)
        source = prepared.open_set(tmp_path, "own_set", "train")
        [source[n] for n in range(40)]
    assert str(directory) in str(caught.value)


def test_writing_prints_nothing(tmp_path, capfd):
    write(tmp_path, "own_set", {"train": lambda: iter(records("own_set", "train", 4))})
    prepared.open_set(tmp_path, "own_set", "train")[0]
    assert capfd.readouterr() == ("", "")


def test_a_set_is_a_sequence(tmp_path):
    """Iterating ends, and what is no record's number is no damage."""
    want = records("own_set", "train", 7)
    more = records("own_set", "test", 2)
    write(tmp_path, "own_set", {"train": lambda: iter(want), "test": lambda: iter(more)})
    for split, all_of_them in (("train", want), ("train+test", [*want, *more]), ("test+train", [*more, *want])):
        source = prepared.open_set(tmp_path, "own_set", split)
        assert len(source) == len(all_of_them)
        assert list(source) == all_of_them
        assert [source[n] for n in range(-len(source), 0)] == all_of_them
        assert source[-1] == all_of_them[-1]
        assert source[1:4] == all_of_them[1:4]
        assert source[::-2] == all_of_them[::-2]
        assert source[np.int64(1)] == all_of_them[1]
        assert [source.shown.of(n) for n in range(len(source))] == [("image",)] * len(source)
        for beyond in (len(source), -len(source) - 1):
            with pytest.raises(IndexError):
                source[beyond]


@pytest.mark.parametrize("by_report", [True, False], ids=["counted", "an earlier version's report"])
def test_the_kinds_of_media_that_a_record_shows(tmp_path, by_report):
    mixed = [
        dataclasses.replace(r, media=pictures(png(1), n))
        for r, n in zip(records("s", "a", 4), (1, 2, 0, 2), strict=True)
    ]
    two = [dataclasses.replace(r, media=pictures(png(1), 2)) for r in records("s", "b", 3)]
    none = [dataclasses.replace(r, media=()) for r in records("s", "c", 2)]
    heard = [dataclasses.replace(r, media=(Medium("audio", b"la"), Medium("image", png(1)))) for r in two[:2]]
    splits = {"a": mixed, "b": two, "c": none, "d": heard}
    write(tmp_path, "s", {split: lambda own=own: iter(own) for split, own in splits.items()})
    report = prepared.directory_of(tmp_path, "s") / "report.json"
    content = json.loads(report.read_text())
    assert [content["splits"][split]["by_kinds"] for split in splits] == [
        {"": 1, "image": 1, "image image": 2},
        {"image image": 3},
        {"": 2},
        {"audio image": 2},
    ]
    if not by_report:
        for split in content["splits"].values():
            del split["by_kinds"]
            split["pictures"] = 2
        report.write_text(json.dumps(content))

    def shown(split: str) -> list[tuple[str, ...]]:
        source = prepared.open_set(tmp_path, "s", split)
        assert list(source) == [record for part in split.split("+") for record in splits[part]]
        return [source.shown.of(n) for n in range(len(source))]

    one, both = ("image",), ("image", "image")
    assert shown("a") == [one, both, one, both]
    assert shown("b+a+d") == [both] * 3 + [one, both, one, both] + [("audio", "image")] * 2
    assert shown("c") == [one, one]
    assert prepared.open_set(tmp_path, "s", "b+d+c").shown.order.tolist() == [2, 2, 2, 1, 1, 0, 0]
