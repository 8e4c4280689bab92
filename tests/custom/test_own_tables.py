"""CSV and TSV files, and texts in other encodings."""

import json

import pytest
from own_files import drafts, json_lines, only, picture, read, reasons, rows

from instructblip_jax.datasets.draft import Media


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_header_determines_the_delimiter(folder, sign):
    source = folder / "rows.csv"
    source.write_text(
        sign.join(["image", "Question ", "answer"])
        + "\n"
        + sign.join(["a.png", "Is it, or not?" if sign != "," else "Is it?", "no"])
    )
    record = only(source).record
    assert record.instruction in ("Is it, or not?", "Is it?")
    assert (record.answers, record.uid) == (("no",), "own/train/2")


def test_cells_stay_as_they_are_written(folder):
    source = folder / "rows.csv"
    source.write_text(
        'image,question,answer,shelf\r\na.png,"What does\nit say, ""stop""?",None,\r\n'
        "a.png,Why?,NA,3\r\n\r\na.png,How?,null,x\r\n"
    )
    first, second, third = drafts(source)
    assert first.record.instruction == 'What does\nit say, "stop"?'
    assert [draft.record.answers for draft in (first, second, third)] == [("None",), ("NA",), ("null",)]
    assert [draft.where.rpartition(":")[2] for draft in (first, second, third)] == ["2", "4", "6"]
    assert [draft.record.meta for draft in (first, second, third)] == [{}, {"shelf": "3"}, {"shelf": "x"}]


def test_cells_that_may_hold_lists(folder):
    source = folder / "rows.csv"
    source.write_text(
        'images,question,answers,weights\n"[""a.png"", ""b.png""]",[Q],"[""x"", ""y""]","[1, 3]"\na.png,Q,[x,\n'
    )
    first, second = rows(source)
    assert first.media == (Media(path=folder / "a.png"), Media(path=folder / "b.png"))
    assert (first.record.answers, first.record.weights) == (("y", "x"), (0.75, 0.25))
    assert first.record.instruction == "[Q]"
    assert (second.reason, second.where) == ("broken list in answers", f"{source}:3")


def test_rows_with_too_many_or_too_few_cells(folder):
    source = folder / "rows.csv"
    source.write_text("image,answer\na.png,x,y\na.png\n,x\na.png,x\n")
    assert reasons(source) == ["more cells than columns", "empty answer", "no picture, recording or point cloud", None]


def test_a_quotation_without_end_is_reported_and_ends(folder):
    source = folder / "rows.csv"
    source.write_text('image,answer\na.png,x\na.png,"' + "y\n" * 70_000)
    found = rows(source)
    assert found[0].record.answers == ("x",)
    assert (found[1].reason, found[1].where) == ("unbalanced quote", f"{source}:3")
    assert len(found) == 70_001
    assert {row.reason for row in found[2:]} == {"empty answer"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,question,prompt,answer", "question and prompt both mean the instruction"),
        ("image,images,answer", "image and images both mean the image"),
        ("image,answer,answer", "two columns are called answer"),
    ],
)
def test_an_ambiguous_header_is_reported(folder, header, message):
    source = folder / "rows.csv"
    source.write_text(header + "\n" + ",".join(["a.png"] * header.count(",")) + ",x\n")
    with pytest.raises(ValueError, match=rf"rows\.csv:1: {message}"):
        read(source)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(folder, encoding):
    source = folder / "rows.csv"
    source.write_bytes("image;question;answer\na.png;Was ist das?;Würfel\n".encode(encoding))
    assert only(source).record.answers == ("Würfel",)
    lines = json_lines(folder / "rows.jsonl", json.dumps({"image": "a.png", "answer": "Würfel"}, ensure_ascii=False))
    lines.write_bytes(lines.read_text().encode(encoding))
    assert only(lines).record.answers == ("Würfel",)
    listed = folder / "rows.json"
    listed.write_bytes(json.dumps([{"image": "a.png", "answer": "Würfel"}], ensure_ascii=False).encode(encoding))
    assert only(listed).record.answers == ("Würfel",)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json"])
def test_invalid_utf_8_is_reported_with_line_and_byte(folder, name):
    text = {
        "rows.csv": "image,answer\na.png,un cône\n",
        "rows.jsonl": '{"image": "a.png",\t"answer": "x"}\n{"image": "a.png", "answer": "cône"}\n',
        "rows.json": '[{"image": "a.png",\n"answer": "cône"}]',
    }[name]
    source = folder / name
    source.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}:2: byte {text.index('ô')} \(0xf4\) is not UTF-8; set --encoding"):
        read(source)
    found = drafts(source, encoding="latin-1")
    assert found[-1].record.answers[0].endswith("cône")


def test_half_a_utf_16_character_is_reported(folder):
    source = folder / "rows.csv"
    source.write_bytes("image,answer\na.png,x\n".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"rows\.csv:2: .*UTF-16"):
        read(source)


def test_an_unknown_encoding_is_reported(folder):
    with pytest.raises(ValueError, match="--encoding klingon"):
        read(json_lines(folder / "rows.jsonl", {}), encoding="klingon")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", r"is packed; unpack it first \(unzip\)"),
        (b"\x1f\x8b\x08rest", r"is packed; unpack it first \(gunzip\)"),
        (b"\xef\xbb\xbf\n", "unknown format"),
        (b"colour,size\nred,big\n", "unknown format"),
        (b"just words", "unknown format"),
    ],
)
def test_an_unknown_format_is_reported(folder, content, message):
    source = folder / "rows.csv"
    source.write_bytes(content)
    with pytest.raises(ValueError, match=rf"rows\.csv: {message}"):
        read(source)


def test_the_format_can_be_given(folder):
    source = folder / "rows.txt"
    source.write_text('{"image": "a.png", "answer": \n')
    assert reasons(source, format="jsonl") == ["broken JSON"]
    with pytest.raises(ValueError, match="--format xml: must be one of jsonl, json"):
        read(source, format="xml")
    with pytest.raises(ValueError, match=r"rows\.txt:1: the header has no known column"):
        read(source, format="csv")
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        read(folder / "gone.csv")
    with pytest.raises(FileNotFoundError, match="--images"):
        read(source, folder / "gone")
