"""`prepare` over a set that is there: the same is left, what changed is refused, and --overwrite makes it anew."""

import json
import os
import shutil

import pytest
from PIL import Image

from instructblip_jax.data import prepared
from instructblip_jax.data.places import REPORT
from instructblip_jax.datasets.prepare import shards


@pytest.fixture
def source(tmp_path):
    """A folder with pictures and two files of rows."""
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(8):
        Image.new("RGB", (6, 5), (30 * n, 40, 250)).save(folder / f"{n}.png")
    table(folder / "a.csv", range(4))
    (folder / "b.jsonl").write_text(json.dumps({"image": "5.png", "question": "which ?", "answer": "5"}) + "\n")
    return folder


def table(path, numbers) -> None:
    path.write_text("image,question,answer\n" + "".join(f"{n}.png,which ?,{n}\n" for n in numbers))


@pytest.fixture
def prepare(cli, tmp_path, source):
    def run(*flags, at=source):
        report = tmp_path / "report.json"
        own = () if any(flag.startswith("--name") for flag in flags) else ("--name=own",)
        result = cli("prepare", "custom", f"--source={at}", *own, f"--out={tmp_path / 'o'}", f"--json={report}", *flags)
        return result, json.loads(report.read_text()) if result.code == 0 else {}

    return run


def state(tmp_path) -> dict:
    return {path: path.read_bytes() for path in sorted((tmp_path / "o" / "own").rglob("*")) if path.is_file()}


def answers(tmp_path) -> list[str]:
    return sorted(record.answers[0] for record in prepared.open_set(tmp_path / "o", "own", "train"))


def test_the_same_again_is_left_and_said_to_be_the_same(prepare, tmp_path, source):
    assert prepare()[0].code == 0
    before = state(tmp_path)
    (source / "9.png").write_bytes((source / "0.png").read_bytes())  # pictures are not looked at
    result, told = prepare()
    assert result.code == 0, result.err
    assert told["kept"] is True
    assert "own: already complete, left unchanged; --overwrite builds it again" in result.out
    assert "its annotation files and flags are still the same" in result.out
    assert state(tmp_path) == before
    moved = source.rename(tmp_path / "moved")
    assert prepare(at=moved)[0].code == 0  # the same files in another place


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: table(folder / "a.csv", range(5)), "a.csv has changed"),
        (lambda folder: table(folder / "c.csv", [6]), "c.csv is new"),
        (lambda folder: (folder / "b.jsonl").unlink(), "b.jsonl is gone"),
    ],
    ids=["changed", "new", "gone"],
)
def test_changed_files_are_refused_by_name_and_overwritten_on_demand(prepare, tmp_path, source, change, words):
    assert prepare()[0].code == 0
    before = state(tmp_path)
    change(source)
    result, _ = prepare()
    assert result.code == 1
    (message,) = result.err.strip().splitlines()
    assert f"was prepared from different inputs: {words}. --overwrite builds it again" in message
    assert state(tmp_path) == before
    rows = len(answers(tmp_path))
    result, told = prepare("--overwrite")
    assert result.code == 0, result.err
    assert told["kept"] is False
    assert len(answers(tmp_path)) != rows
    assert [path.name for path in (tmp_path / "o" / "own").iterdir()] == ["3.0.0"]
    assert prepare()[1]["kept"] is True


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["--validation=0.2"], ["--validation=0.5"], "--validation was 0.2 and is 0.5"),
        ([], ["--validation=0.5"], "--validation was 0.0 and is 0.5"),
        ([], ["--frames=3"], "--frames was 4 and is 3"),
        (["--encoding=utf-8"], [], "--encoding was utf-8 and is not given"),
    ],
)
def test_other_flags_are_refused_with_both_values(prepare, first, second, words):
    assert prepare(*first)[0].code == 0
    result, _ = prepare(*second)
    assert (result.code, words in result.err) == (1, True), result.err
    assert prepare(*second, "--overwrite")[0].code == 0
    assert prepare(*second)[0].code == 0


def test_other_folders_of_pictures_are_refused(prepare, tmp_path, source):
    assert prepare(f"--images={source}")[0].code == 0
    other = tmp_path / "other"
    shutil.copytree(source, other)
    result, _ = prepare(f"--images={other}")
    assert result.code == 1
    assert f"--images was {source} and is {other}" in result.err


def test_the_other_file_of_a_vqa_pair_counts_too(prepare, source):
    asked = [{"question_id": n, "image_id": n, "question": "which ?", "image": f"{n}.png"} for n in range(4)]
    for path in source.glob("[ab].*"):
        path.unlink()
    said = [{"question_id": n, "answers": [{"answer": str(n)}]} for n in range(4)]
    (source / "questions.json").write_text(json.dumps({"questions": asked}))
    (source / "annotations.json").write_text(json.dumps({"annotations": said}))
    assert prepare(at=source / "questions.json")[0].code == 0
    said[0]["answers"][0]["answer"] = "another"
    (source / "annotations.json").write_text(json.dumps({"annotations": said}))
    result, _ = prepare(at=source / "questions.json")
    assert (result.code, "annotations.json has changed" in result.err) == (1, True), result.err


def test_of_folders_without_annotations_the_pictures_count(prepare, source):
    for path in source.glob("[ab].*"):
        path.unlink()
    for n in range(8):
        (source / f"kind{n % 2}").mkdir(exist_ok=True)
        (source / f"{n}.png").rename(source / f"kind{n % 2}" / f"{n}.png")
    assert prepare()[0].code == 0
    assert prepare()[0].code == 0
    shutil.copy(source / "kind0" / "0.png", source / "kind0" / "more.png")
    result, _ = prepare()
    assert (result.code, "9 pictures is new" in result.err) == (1, True), result.err


def test_what_is_written_into_the_source_is_no_part_of_it(cli, source):
    given = ("prepare", "custom", f"--source={source}", "--name=own", f"--out={source / 'sets'}")
    assert cli(*given).code == 0
    assert cli(*given).code == 0


def test_a_set_of_an_earlier_version_is_accepted_with_a_note(prepare, tmp_path, source):
    assert prepare("--validation=0.2")[0].code == 0
    report = tmp_path / "o" / "own" / "3.0.0" / REPORT
    told = json.loads(report.read_text())
    del told["configuration"]["files"]
    report.write_text(json.dumps(told))
    table(source / "a.csv", range(6))
    result, told = prepare("--validation=0.2")
    assert result.code == 0, result.err
    assert "note: an earlier version made it, so it is not known whether its files are still the same" in result.out
    assert any("an earlier version" in note for note in told["notes"])
    assert prepare("--validation=0.3")[0].code == 1  # its flags are known


def test_the_old_set_stays_until_the_new_one_is_whole(prepare, tmp_path, source, monkeypatch):
    assert prepare()[0].code == 0
    before = state(tmp_path)
    table(source / "a.csv", range(6))

    def broken(work, report):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("instructblip_jax.datasets.prepare.shards.finish", broken)
        result, _ = prepare("--overwrite")
    assert (result.code, "the disk is full" in result.err) == (1, True)
    kept = state(tmp_path)
    assert {path: kept[path] for path in before} == before
    assert answers(tmp_path) == ["0", "1", "2", "3", "5"]
    assert prepare("--overwrite")[0].code == 0
    assert answers(tmp_path) == ["0", "1", "2", "3", "4", "5", "5"]
    assert set(state(tmp_path)) == set(before)


def test_the_old_set_comes_back_where_the_new_one_cannot_get_its_name(prepare, tmp_path, source, monkeypatch):
    assert prepare()[0].code == 0
    before = state(tmp_path)
    table(source / "a.csv", range(5))
    rename, place = os.rename, prepared.directory_of(tmp_path / "o", "own")

    def fails_at_the_new_set(old, new):
        if new == place and not str(old).endswith(".replaced"):
            raise PermissionError(13, "not allowed", str(new))
        rename(old, new)

    monkeypatch.setattr(shards.os, "rename", fails_at_the_new_set)
    result, _ = prepare("--overwrite")
    assert result.code == 1
    assert "not allowed" in result.err
    kept = state(tmp_path)
    assert {path: kept.get(path) for path in before} == before
    assert not any(".replaced" in str(path) for path in kept)


def test_official_files_count_as_well(cli, tmp_path):
    """VSR's, which lie two folders down."""
    folder = tmp_path / "vsr" / "splits" / "zeroshot"
    folder.mkdir(parents=True)
    (tmp_path / "vsr" / "images").mkdir()
    Image.new("RGB", (6, 5), (30, 40, 250)).save(tmp_path / "vsr" / "images" / "1.jpg")
    row = {"image": "1.jpg", "caption": "The cat is up.", "label": 1, "relation": "up"}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    given = ("prepare", "vsr", f"--source={tmp_path / 'vsr'}", f"--out={tmp_path / 'o'}")
    assert cli(*given).code == 0
    assert cli(*given).code == 0
    (folder / "test.jsonl").write_text(json.dumps(row | {"label": 0}) + "\n")
    result = cli(*given)
    assert (result.code, "splits/zeroshot/test.jsonl has changed" in result.err) == (1, True), result.err
    assert cli(*given, "--overwrite").code == 0
    (record,) = prepared.open_set(tmp_path / "o", "vsr", "zeroshot/test")
    assert record.label == 0


def test_what_cannot_be_written_is_told_before_anything_is_read(cli, tmp_path, source, monkeypatch):
    monkeypatch.setattr(
        "instructblip_jax.datasets.readers.custom.reading._splits", lambda *_: pytest.fail("the source was read")
    )
    (tmp_path / "file").write_text("")
    given = ("prepare", "custom", f"--source={source}", "--name=own")
    assert cli(*given, f"--out={tmp_path / 'file' / 'o'}").code == 1
    result = cli(*given, f"--out={tmp_path / 'o'}", f"--json={tmp_path / 'none' / 'r.json'}")
    assert (result.code, "there is no such directory" in result.err) == (2, True)
    result = cli("prepare", "digits", f"--out={tmp_path / 'o'}", "--overwrite")
    assert (result.code, "takes no --overwrite" in result.err) == (2, True)
