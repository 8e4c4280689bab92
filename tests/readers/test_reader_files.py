"""Streaming JSON and text files of any size; cleaned texts; finding pictures."""

import json
import random
import unicodedata
from pathlib import Path

import pytest

from instructblip_jax.datasets.readers import fields, json_files, stores, text_files
from instructblip_jax.datasets.readers.fields import BadRow


@pytest.fixture(params=[1, 7, 300, 1 << 20])
def chunk(request, monkeypatch):
    """Read in pieces of this many bytes."""
    monkeypatch.setattr(text_files, "CHUNK", request.param)
    return request.param


VALUES = [
    {"a": "x", "n": [1, -2.5e-3, True, None]},
    {"a": "é" * 90 + "\U0001f600", "b": {"c": {}}},
    {"a": 'a "quote" \\ and \n \t'},
    123456789,
    1e300,
    "",
    [],
    {},
    None,
    False,
    [[[]]],
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_elements_and_members_agree_with_json(tmp_path, chunk, indent, mark):
    path = tmp_path / "a.json"
    for values in ([], VALUES, VALUES * 3):
        path.write_text(mark + json.dumps(values, indent=indent, ensure_ascii=chunk == 7) + "\n", encoding="utf-8")
        found = list(json_files.elements(path))
        assert [value for _, value in found] == values
        assert [where for where, _ in found] == [f"{path}:[{k}]" for k in range(len(values))]
        assert json_files.value(path) == values
        assert json_files.first_mark(path) == "["
        keyed = {f"key {k}": value for k, value in enumerate(values)}
        nested = {"version": 0.1, "junk": [{}], "data": {"first": 1, "rows": values, "last": {}}, "end": "x"}
        path.write_text(mark + json.dumps(keyed, indent=indent), encoding="utf-8")
        assert [(key, value) for _, key, value in json_files.members(path)] == list(keyed.items())
        path.write_text(mark + json.dumps(nested, indent=indent), encoding="utf-8")
        assert [value for _, value in json_files.elements(path, "data", "rows")] == values
        assert json_files.value(path, "data", "first") == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("[1, 2", 1),
        ("[\n1,\n2,\n]", 4),
        ("[1 2]", 1),
        ('[\n{"a": "x}]', 2),
        ('["a\nb"]', 1),
        ("[1] x", 1),
        ("[nul]", 1),
        ('["\\x"]', 1),
        ("[" * 100_000, 1),
        ("[" + "9" * 5000 + "]", 1),
        ("[01]", 1),
        ("[1,,2]", 1),
    ],
)
def test_broken_json_is_reported_with_its_line(tmp_path, chunk, text, line):
    path = tmp_path / "broken.json"
    path.write_text(text)
    for read in (lambda: list(json_files.elements(path)), lambda: json_files.value(path)):
        with pytest.raises(ValueError, match=r"broken\.json(:\d+: broken JSON|: the file is not a list)") as raised:
            read()
        assert f":{line}: " in str(raised.value) or not text


@pytest.mark.parametrize("text", ['{"b": []}', "{}", "[]", '{"data": 3}', '{"data": {}}', '"data"'])
def test_a_file_without_its_list_is_reported(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json: .*data"):
        list(json_files.elements(path, "data"))


def test_entries_before_the_break_are_read(tmp_path, chunk):
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(VALUES)[:-40])
    entries = json_files.elements(path)
    assert next(entries)[1] == VALUES[0]
    with pytest.raises(ValueError, match=r"cut\.json:1: broken JSON"):
        list(entries)


def test_lines_of_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": \n[2]\n' + b"[" * 100_000 + b"\n" + b"9" * 5000)
    found = list(json_files.json_lines(path))
    assert [where.rsplit(":", 1)[1] for where, _ in found] == ["1", "4", "5", "6", "7"]
    assert (found[0][1], found[2][1]) == ({"a": 1}, [2])
    assert [value.reason for _, value in found if isinstance(value, BadRow)] == ["broken line"] * 3


@pytest.mark.parametrize("before", ["", "é", "\n", "a\nbé\n" * 50])
def test_invalid_utf8_is_reported_with_line_and_byte(tmp_path, chunk, before):
    path = tmp_path / "latin.txt"
    path.write_bytes(before.encode() + b"caf\xe9 x\n")
    line, byte = before.count("\n") + 1, len(before.encode()) + 3
    for read in (text_files.lines, text_files.pieces):
        with pytest.raises(ValueError, match=rf"latin\.txt:{line}: not UTF-8 \(byte {byte} "):
            list(read(path))
    path.write_bytes(before.encode() + "é".encode()[:1])  # cut off within a character
    for read in (text_files.lines, text_files.pieces):
        with pytest.raises(ValueError, match=rf"latin\.txt:{line}: not UTF-8"):
            list(read(path))


def test_pieces_are_the_text(tmp_path, chunk):
    path = tmp_path / "text"
    text = "é\U0001f600\n日本 x" * 99
    for mark in ("", "\ufeff"):
        path.write_text(mark + text, encoding="utf-8")
        assert "".join(text_files.pieces(path)) == text
        assert [line for _, line in text_files.lines(path)] == text.split("\n")


def test_clean_text():
    assert fields.clean(" a\r\nb\rc\x00\x0b\x1fd\te\u00a0 ") == "a\nb\ncd\te"
    assert fields.clean("cafe\u0301") == "café"
    assert fields.clean("Two WORDS ") == "Two WORDS"
    for text in ("\ud800", "x\udfff"):
        with pytest.raises(BadRow, match="lone surrogate"):
            fields.clean(text)
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(chr(rng.choice((rng.randrange(32), rng.randrange(0x300), 0x301, 0xAC00))) for _ in range(20))
        clean = fields.clean(text)
        assert clean == fields.clean(clean)
        assert unicodedata.is_normalized("NFC", clean)
        assert not any(ord(mark) < 32 and mark not in "\t\n" for mark in clean)


@pytest.mark.parametrize(
    ("take", "value", "reason"),
    [
        (fields.text, None, "wrong type"),
        (fields.text, ["x"], "wrong type"),
        (fields.text, 3, "wrong type"),
        (fields.full_text, " \n", "empty f"),
        (fields.texts, "x", "wrong type"),
        (fields.texts, ["x", None], "wrong type"),
        (fields.ident, None, "wrong type"),
        (fields.ident, True, "wrong type"),
        (fields.ident, 1.5, "wrong type"),
        (fields.ident, "", "wrong type"),
        (fields.ident, "\ud800", "wrong type"),
        (fields.ident, 1 << 64, "wrong type"),
    ],
)
def test_fields_of_another_type_are_bad(take, value, reason):
    with pytest.raises(BadRow) as raised:
        take({"f": value}, "f")
    assert raised.value.reason == reason
    raised.value.detail.encode()  # can be printed
    with pytest.raises(BadRow, match="missing field"):
        take({}, "f")


def test_answers_may_be_numbers():
    assert fields.texts({"f": ["3", 3, 2.5, True]}, "f") == ("3", "3", "2.5", "true")
    for number, count in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(BadRow, match="label outside"):
            fields.index(number, count, "label")
    with pytest.raises(BadRow, match="wrong type"):
        fields.index(True, 2, "label")


def test_counted():
    assert fields.counted(["b", "a", "", "a", "b", "c"]) == (("b", "a", "c"), (0.4, 0.4, 0.2))
    assert fields.counted(["", ""]) == ((), ())
    assert fields.options(["x", "y"]) == "(a) x (b) y"
    assert fields.letter(26) == "27"


def test_extras():
    row = {"a": "x", "b": [1, "y"], "c": {"d": 1}, "e": None, "f": float("nan"), "g": [[1]], "h": "\ud800", "i": [None]}
    assert fields.extras(row, *row, "none") == {"a": "x", "b": [1, "y"]}


def pictures(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return [root / name for name in names]


def test_a_number_is_found_in_any_of_cocos_folders(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    where = stores.Store([a, b])
    official = a / "val2014/COCO_val2014_000000000007.jpg"
    assert stores.coco_picture(where, 7, "val2014") == official  # nowhere: its official path
    names = ("000000000007.jpg", "test2015/COCO_test2015_000000000007.jpg", "train2014/COCO_train2014_000000000007.jpg")
    for name in (*names, "val2017/000000000007.jpg", "train2017/000000000007.jpg"):  # each before those above it
        (path,) = pictures(b, name)
        where = stores.Store([a, b])  # which folders there are is looked up once
        assert stores.coco_picture(where, 7, "val2014") == path
        assert stores.coco_picture(where, "7", "val2014") == path
    pictures(a, "val2014/COCO_val2014_000000000007.jpg")
    where = stores.Store([a, b])
    assert stores.coco_picture(where, 7, "val2014") == official
    for number in ("x7", -1, 10**12, "../7"):
        with pytest.raises(BadRow, match="wrong type"):
            stores.coco_picture(where, number, "val2014")


@pytest.mark.parametrize(
    "name", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "..", "", ".", "..\\x.jpg", "C:\\x.jpg", "a\0b"]
)
def test_a_path_that_leaves_the_roots_is_bad(tmp_path, name):
    pictures(tmp_path, "x.jpg", "root/y.jpg")
    with pytest.raises(BadRow, match="path outside the image root"):
        stores.Store([tmp_path / "root"]).find(name)


def test_names_within_the_roots(tmp_path):
    (path,) = pictures(tmp_path, "root/a/y.jpg")
    where = stores.Store([tmp_path / "none", tmp_path / "root"])
    for name in ("a/y.jpg", "a/b/../y.jpg", "./a//y.jpg", str(path)):
        assert where.find(name) == path
    assert where.find("b.jpg", "c.jpg") == tmp_path / "none/b.jpg"


def test_case_and_unicode_form_of_a_name_do_not_matter(tmp_path):
    stores._folded.cache_clear()
    pictures(tmp_path, "Train/Ünder 1.JPG", "Train/b.jpg", "train2/B.JPG")
    where = stores.Store([tmp_path])
    assert where.find("train/U\u0308nder 1.jpg") == tmp_path / "Train/Ünder 1.JPG"
    assert where.find("TRAIN2/b.jpg") == tmp_path / "train2/B.JPG"
    assert where.find("Train/b.jpg") == tmp_path / "Train/b.jpg"
    assert where.find("train/c.jpg") == tmp_path / "train/c.jpg"
