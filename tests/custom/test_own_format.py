"""The own format as JSONL and JSON: every column, all its names, every kind of unusable row."""

import base64
import json

import pytest
from own_files import drafts, json_file, json_lines, only, picture, png, read, reasons, rows

from instructblip_jax.data.record import AUDIO, POINTS
from instructblip_jax.datasets.draft import Media, Skip
from instructblip_jax.datasets.readers.custom.own_row import COLUMNS

ROW = {"image": "a.png", "instruction": "What is it?", "answer": "a box"}


@pytest.fixture
def folder(tmp_path):
    """With two pictures."""
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", 120)
    return tmp_path


def test_every_column_goes_where_it_belongs(folder):
    row = ROW | {
        "id": "q7",
        "image_id": 12,
        "question_id": "s-3",
        "split": "val",
        "task": "rank",
        "candidates": ["a drum", "a box"],
        "context": "It is heavy.",
        "source": {"site": "attic", "shelf": 3},
        "empty": None,
    }
    draft = only(json_lines(folder / "rows.jsonl", row))
    record = draft.record
    assert draft.where == f"{folder / 'rows.jsonl'}:1"
    assert draft.media == (Media(path=folder / "a.png"),)
    assert (record.uid, record.dataset, record.split) == ("own/validation/q7", "own", "validation")
    assert record.instruction == "It is heavy.\nWhat is it?"
    assert record.slots == {"question": "What is it?", "context": "It is heavy."}
    assert record.answers == ("a box",)
    assert (record.weights, record.references) == ((), ())
    assert (record.task, record.candidates, record.label) == ("rank", ("a drum", "a box"), 1)
    assert (record.image_id, record.question_id) == (12, "s-3")
    assert record.meta == {"source": {"site": "attic", "shelf": 3}}


def test_recordings_and_point_clouds_follow_the_pictures_of_a_row(folder):
    for name in ("hum.wav", "b.npy"):
        (folder / name).write_bytes(b"any")
    row = {"pc": ["b.npy"], "audio": "hum.wav", "image": "a.png", "instruction": "Which is it?", "answer": "a box"}
    hum, cloud = (Media(path=folder / name, kind=kind) for name, kind in (("hum.wav", AUDIO), ("b.npy", POINTS)))
    assert only(json_lines(folder / "rows.jsonl", row)).media == (Media(path=folder / "a.png"), hum, cloud)
    assert only(json_lines(folder / "alone.jsonl", {"audio": "hum.wav", "answer": "a hum"})).media == (hum,)


@pytest.mark.parametrize(
    ("more", "task"),
    [
        ({}, "vqa"),
        ({"instruction": None}, "caption"),
        ({"candidates": ["a box", "x"]}, "choice"),
        ({"task": "mine"}, "mine"),
    ],
)
def test_the_task_is_what_the_columns_say(folder, more, task):
    assert only(json_lines(folder / "rows.jsonl", ROW | more)).record.task == task


@pytest.mark.parametrize(
    ("column", "alias"),
    [(column, alias) for column in ("image", "instruction", "answer", "candidates") for alias in COLUMNS[column]],
)
def test_every_other_name_of_a_column(folder, column, alias):
    row = ROW | {"candidates": ["a box", "a drum"]}
    renamed = {alias if name == column else name: value for name, value in row.items()}
    plain, other = (only(json_lines(folder / "rows.jsonl", each)) for each in (row, renamed))
    assert other.record == plain.record
    assert [media.path for media in other.media] == [folder / "a.png"]
    assert [media.video for media in other.media] == [alias == "video"]


@pytest.mark.parametrize(
    ("first", "second"),
    [(aliases[0], other) for aliases in COLUMNS.values() for other in aliases[1:]]
    + [("prompt", "question"), ("output", "caption")],
)
def test_two_names_of_a_column_are_reported(folder, first, second):
    source = json_lines(folder / "rows.jsonl", ROW, {"image": "a.png", "answer": "b", first: "a.png", second: "a.png"})
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: .*{first}.* both mean") as caught:
        read(source)
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_an_exporters_nulls_are_not_a_second_name(folder):
    row = {"image": "a.png", "question": "What?", "prompt": None, "answer": None, "answers": ["x"]}
    assert only(json_lines(folder / "rows.jsonl", row)).record.answers == ("x",)


@pytest.mark.parametrize(
    ("given", "answers", "weights", "references"),
    [
        (["box", "block"], ("box", "block"), (), ("box", "block")),
        (["1", "one", "one"], ("one", "1"), (2 / 3, 1 / 3), ("1", "one", "one")),
        (["", "red", None], ("red",), (), ("", "red", "")),
        (3, ("3",), (), ()),
        (1.5, ("1.5",), (), ()),
        (True, ("true",), (), ()),
        ("None", ("None",), (), ()),
        ("  a\r\nb\u0007 ", ("a\nb",), (), ()),
        ("e\u0301", ("\u00e9",), (), ()),
    ],
)
def test_answers(folder, given, answers, weights, references):
    record = only(json_lines(folder / "rows.jsonl", ROW | {"answer": given})).record
    assert (record.answers, record.references) == (answers, references)
    assert record.weights == pytest.approx(weights)


def test_weights_add_up_to_one(folder):
    row = ROW | {"answer": ["x", "y", "x"], "weights": [1, 1, 2]}
    record = only(json_lines(folder / "rows.jsonl", row)).record
    assert (record.answers, record.weights) == (("x", "y"), (0.75, 0.25))


@pytest.mark.parametrize(("answer", "label"), [("yes", 1), ("No", 0), ("perhaps", None)])
def test_a_binary_task_has_a_label(folder, answer, label):
    assert only(json_lines(folder / "rows.jsonl", ROW | {"task": "binary", "answer": answer})).record.label == label


BAD = {
    "empty answer": [{"answer": ""}, {"answer": "  \u0000"}, {"answer": None}, {"answer": []}, {"answer": ["", None]}],
    "blank instruction": [{"instruction": "  "}, {"instruction": "<image>"}],
    "answer not among the candidates": [{"candidates": ["x", "y"]}, {"candidates": "x"}],
    "weights and answers differ in number": [{"weights": [0.5, 0.5]}, {"weights": 1, "answer": ["a", "b"]}],
    "invalid weights": [
        {"weights": [-1]},
        {"weights": ["x"]},
        {"weights": [0]},
        {"weights": [None]},
    ],
    "answer is not text": [{"answer": {"a": 1}}, {"answer": [["x"]]}],
    "instruction is not text": [{"instruction": ["What?"]}],
    "no picture, recording or point cloud": [{"image": ""}, {"image": None}, {"image": []}],
    "neither a path nor bytes": [{"image": 7}],
    "path is a URL, nothing is downloaded": [{"image": "https://example.org/a.png"}, {"audio": "http://a.b/c.wav"}],
    "broken data: URI": [{"image": "data:image/png;base64,###"}, {"image": "data:image/png,abc"}],
    "path outside the image root": [{"image": "../a.png"}, {"image": "/etc/hostname"}, {"image": "x/../../a.png"}],
    "impossible path": [{"image": "a" * 5000}],
    "unknown split": [{"split": "holdout"}],
    "lone surrogate": [{"answer": "b\ud800x"}, {"instruction": "\udfff"}, {"note": "\ud800"}, {"image": "\ud800.png"}],
}


@pytest.mark.parametrize(
    ("reason", "change"), [(reason, change) for reason, changes in BAD.items() for change in changes]
)
def test_an_unusable_row_is_skipped_alone(folder, reason, change):
    source = json_lines(folder / "rows.jsonl", ROW, ROW | change, ROW)
    assert reasons(source) == [None, reason, None]
    assert rows(source)[1].where == f"{source}:2"


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"image": "a.png", "answer": "cut', "column 30"),
        ("{'image': 1}", "column 2"),
        ('{"answer": nan}', "column 12"),
        ("[" * 100_000, ""),
    ],
)
def test_a_broken_line_is_reported_with_its_place(folder, line, detail):
    first, broken, last = rows(json_lines(folder / "rows.jsonl", ROW, line, ROW))
    assert isinstance(broken, Skip)
    assert (broken.reason, broken.where) == ("broken JSON", f"{folder / 'rows.jsonl'}:2")
    assert detail in broken.detail
    assert len(broken.detail) < 200
    assert (first.record.uid, last.record.uid) == ("own/train/1", "own/train/3")


def test_values_other_than_objects_are_skipped(folder):
    assert reasons(json_lines(folder / "rows.jsonl", ROW, "3", "[1]")) == [
        None,
        "not a JSON object",
        "not a JSON object",
    ]
    assert reasons(json_file(folder / "rows.json", [ROW, 3, None])) == [None, "not a JSON object", "not a JSON object"]


def test_blank_lines_are_skipped_and_count_as_lines(folder):
    source = folder / "rows.jsonl"
    source.write_text(json.dumps(ROW) + "\n\n  \r\n" + json.dumps(ROW))
    assert [draft.record.uid for draft in drafts(source)] == ["own/train/1", "own/train/4"]


def test_markers_of_pictures_go_and_others_stay(folder):
    row = ROW | {"instruction": "<image> What? </s> [INST] <image>", "answer": "a <image>"}
    record = only(json_lines(folder / "rows.jsonl", row)).record
    assert (record.instruction, record.answers) == ("What? </s> [INST]", ("a <image>",))


def test_control_characters_go_tabs_and_lines_stay(folder):
    row = ROW | {"instruction": "W\u0000h\u0008at?\t\r\nNow\u001f", "note": ["x\u0001"]}
    record = only(json_lines(folder / "rows.jsonl", row)).record
    assert record.instruction == "What?\t\nNow"
    assert record.meta == {"note": ["x"]}


def test_captions_need_no_instruction(folder):
    given = [
        {"image": "a.png", "caption": "A box."},
        {"image": "a.png", "caption": "A box.", "instruction": " "},
        {"image": "a.png", "answer": "A box.", "instruction": " ", "task": "caption"},
    ]
    for draft in drafts(json_lines(folder / "rows.jsonl", *given)):
        assert (draft.record.task, draft.record.instruction, draft.record.slots) == ("caption", None, {})


def test_evaluation_rows_may_have_no_answer(folder):
    record = only(json_lines(folder / "test.jsonl", {"image": "a.png", "question": "What?", "answer": None})).record
    assert (record.split, record.answers, record.label) == ("test", (), None)


def test_a_picture_in_the_row(folder):
    uri = "data:image/png;base64," + base64.b64encode(png(7)).decode()
    draft = only(json_lines(folder / "rows.jsonl", ROW | {"images": ["b.png", uri], "image": None}))
    assert draft.media == (Media(path=folder / "b.png"), Media(data=png(7)))


def test_a_json_list_is_the_same_as_lines_whatever_its_name(folder):
    given = [ROW, ROW | {"id": "x", "answer": 0.5}]
    (folder / "list.jsonl").write_text(json.dumps(given))
    (folder / "lines.json").write_text("\n".join(map(json.dumps, given)))
    expected = [draft.record for draft in drafts(json_lines(folder / "rows.jsonl", *given))]
    for name in ("list.jsonl", "lines.json"):
        assert [draft.record for draft in drafts(folder / name)] == expected


def test_a_list_that_breaks_off_is_reported(folder):
    source = folder / "rows.json"
    source.write_text(json.dumps([ROW, ROW])[:-9])
    with pytest.raises(ValueError, match=r"rows\.json:1: broken JSON"):
        read(source)


def test_a_list_that_is_nested_without_end_is_reported(folder):
    """It neither hangs nor crashes the interpreter."""
    path = folder / "rows.json"
    path.write_text('[{"image": "a.jpg", "answer": ' + "[" * 200_000 + "]" * 200_000 + "}]")
    with pytest.raises(ValueError, match=r"rows\.json:1: broken JSON, nested too deeply"):
        read(path)
