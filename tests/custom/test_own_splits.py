"""Assigning rows to splits; finding pictures."""

import os
import unicodedata

import pytest
from own_files import json_lines, only, picture, read, reasons

from instructblip_jax.datasets.draft import Media
from instructblip_jax.datasets.readers.custom.splits import of_folder, of_name

ROW = {"image": "0.png", "instruction": "What?", "answer": "x"}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("training_v2.csv", "train"),
        ("val.csv", "validation"),
        ("validation-00000-of-00001.parquet", "validation"),
        ("captions_val2014.json", "validation"),
        ("my_dev.jsonl", "validation"),
        ("test-dev.json", "test"),
        ("Test.JSONL", "test"),
        ("rows.jsonl", None),
        ("contest.jsonl", None),
        ("evaluation.jsonl", None),
        ("strains.csv", None),
    ],
)
def test_the_split_in_a_files_name(tmp_path, name, split):
    assert of_name(tmp_path / name) == split


def test_the_split_in_a_folders_name(tmp_path):
    assert of_name(tmp_path / "val2017" / "rows.jsonl") == "validation"
    assert of_name(tmp_path / "val2017" / "train.jsonl") == "train"
    assert [of_folder(name) for name in ("Train", "test_2", "validation", "test_pictures", "trains")] == [
        "train",
        "test",
        "validation",
        None,
        None,
    ]


def test_the_field_counts_more_than_the_name_and_the_name_more_than_the_share(tmp_path):
    source = json_lines(tmp_path / "val.jsonl", ROW, ROW | {"split": "test2019"}, ROW | {"split": ""})
    with pytest.warns(UserWarning, match=r"--validation 0\.9 divided nothing"):
        found = read(source, validation=0.9)
    assert {split: [row.record.uid for row in rows] for split, rows in found.items()} == {
        "validation": ["own/validation/1", "own/validation/3"],
        "test": ["own/test/2"],
    }


def test_unusable_rows_are_counted_in_their_files_split(tmp_path):
    found = read(json_lines(tmp_path / "test.jsonl", ROW, "{", ROW | {"image": "../x"}))
    assert [getattr(row, "reason", None) for row in found["test"]] == [
        None,
        "broken JSON",
        "path outside the image root",
    ]


def test_without_a_share_all_is_trained_on(tmp_path):
    assert list(read(json_lines(tmp_path / "rows.jsonl", ROW))) == ["train"]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_invalid_share_is_reported(tmp_path, share):
    with pytest.raises(ValueError, match="--validation"):
        read(json_lines(tmp_path / "rows.jsonl", ROW), validation=share)


def test_the_share_is_drawn_by_picture_and_the_same_every_time(tmp_path):
    """Five questions per picture, under several spellings of its path."""
    spelt = ("{}.png", "./{}.png", "sub/../{}.png", "{}.png", "{}.png")
    (tmp_path / "sub").mkdir()
    rows = [ROW | {"image": shape.format(n)} for shape in spelt for n in range(300)]
    source = json_lines(tmp_path / "rows.jsonl", *rows)
    found = read(source, validation=0.2)
    pictures = {split: {row.media[0].path.resolve() for row in rows} for split, rows in found.items()}
    assert not pictures["train"] & pictures["validation"]
    assert sum(map(len, found.values())) == 1500
    assert 30 <= len(pictures["validation"]) <= 90
    assert read(source, validation=0.2) == found
    json_lines(source, *reversed(rows))
    again = read(source, validation=0.2)
    assert {row.media[0].path.resolve() for row in again["validation"]} == pictures["validation"]


def test_pictures_that_a_row_shows_together_stay_together(tmp_path):
    rows = [ROW | {"image": f"{n}.png"} for n in range(200)]
    rows += [{"images": [f"{n}.png", f"{n + 1}.png"], "answer": "x"} for n in range(0, 200, 3)]
    found = read(json_lines(tmp_path / "rows.jsonl", *rows), validation=0.4)
    pictures = {split: {media.path for row in rows for media in row.media} for split, rows in found.items()}
    assert set(pictures) == {"train", "validation"}
    assert not pictures["train"] & pictures["validation"]


def test_pictures_are_looked_for_in_the_roots_then_beside_the_file(tmp_path):
    for place in ("first", "second", "set"):
        picture(tmp_path / place / f"{place}.png")
    picture(tmp_path / "second" / "set.png")
    roots = (tmp_path / "first", tmp_path / "second")
    source = tmp_path / "set" / "rows.jsonl"
    for name, place in (("first", "first"), ("second", "second"), ("set", "second"), ("gone", "first")):
        json_lines(source, ROW | {"image": f"{name}.png"})
        assert only(source, *roots).media == (Media(path=tmp_path / place / f"{name}.png"),)
    absolute = str(tmp_path / "second" / "second.png")
    json_lines(source, ROW | {"image": absolute})
    assert only(source, *roots).media[0].path == tmp_path / "second" / "second.png"
    assert reasons(source) == ["path outside the image root"]  # no root was named that it lies in


def test_links_that_lead_out_are_refused(tmp_path):
    picture(tmp_path / "secret.png")
    picture(tmp_path / "set" / "in.png")
    os.symlink(tmp_path / "secret.png", tmp_path / "set" / "out.png")
    os.symlink("in.png", tmp_path / "set" / "stays.png")
    os.symlink("loop.png", tmp_path / "set" / "loop.png")
    names = ("out.png", "stays.png", "loop.png")
    found = reasons(json_lines(tmp_path / "set" / "rows.jsonl", *(ROW | {"image": name} for name in names)))
    assert found == ["path outside the image root", None, "impossible path"]


def test_names_that_differ_in_case_or_form_are_found(tmp_path):
    picture(tmp_path / "Überblick 5.JPG")
    names = (unicodedata.normalize("NFD", "überblick 5.jpg"), "Überblick 5.JPG", ".\\Überblick 5.JPG")
    for name in names:
        draft = only(json_lines(tmp_path / "rows.jsonl", ROW | {"image": name}))
        assert draft.media[0].path.name == "Überblick 5.JPG"
