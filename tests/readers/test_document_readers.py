"""Documents: which picture stands where, and what happens to those that are missing, broken or too small."""

import base64
import io
import json
import random
import tarfile

import numpy as np
import pytest
from drawing import rows
from fixtures.documents import mmc4_rows
from PIL import Image

from instructblip_jax.data.prepared import open_set
from instructblip_jax.datasets.draft import Draft, Skip
from instructblip_jax.datasets.prepare import shards
from instructblip_jax.datasets.readers import custom, mmc4
from instructblip_jax.datasets.readers.releases import RELEASES


def shape(record):
    """The parts of a document, with a dot for each text."""
    return ["." if isinstance(part, str) else part for part in record.parts]


def png(side=80, seed=0, colour=None):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    if colour is not None:
        pixels[:] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_stands_before_its_sentence_and_a_sentence_has_one(world):
    found = rows("mmc4", world, "train")
    written = [row for row in found if isinstance(row, Draft)]
    # The second of two pictures that want the same sentence takes the next best; without a matrix both have it.
    assert [shape(row.record) for row in written] == [[0, ".", 1, "."], [".", 0, "."], ["."], [".", 0, 1, "."]]
    first = json.loads((world / "mmc4/docs_no_face_shard_0_v2.jsonl").read_text().splitlines()[0])
    assert written[0].record.parts[1] == first["text_list"][0]
    assert written[0].record.parts[3] == " ".join(first["text_list"][1:])
    names = [info["image_name"] for info in first["image_info"]]
    assert [media.path.name for media in written[0].media] == [names[1], names[0]]
    below = "picture left out: similarity below 0.24"
    assert [row.notes for row in written] == [("picture left out: below 10 KB",), (below,), (), (below,)]
    assert [(row.reason, row.detail) for row in found if isinstance(row, Skip)] == [
        ("no picture left", "missing picture")
    ]


def test_shards_of_tar_hold_their_pictures(tmp_path):
    row = mmc4_rows(tmp_path, random.Random(0))[0]
    data = png()
    for info in row["image_info"][:2]:
        info["image_base64"] = base64.b64encode(data).decode()
    row["image_info"][2]["image_base64"] = "?"
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        for name, text in (("7.json", json.dumps(row)), ("8.json", "{")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    draft, skip = mmc4.RELEASE.splits(tmp_path, ())["train"]()
    assert (draft.record.uid, shape(draft.record)) == ("mmc4/train/000/7", [0, ".", 1, "."])
    assert [media.data for media in draft.media] == [data, data]
    assert draft.notes == ("picture left out: broken base64",)
    assert skip.reason == "broken document"


def test_obelics_keeps_the_order_and_finds_pictures_by_either_name(world):
    found = rows("obelics", world, "train")
    written = [row for row in found if isinstance(row, Draft)]
    assert [shape(row.record) for row in written] == [[0, ".", 1], ["."], [0, "."]]
    assert written[0].record.parts[1].count("\n\n") == 3  # two texts of two paragraphs each
    assert [len(row.media[0].path.stem) for row in written[:1]] == [40]
    assert written[0].media[1].path.name == "own name.png"
    assert written[0].record.meta == {"url": "http://example.org/0"}
    assert [(row.reason, row.detail) for row in found if isinstance(row, Skip)] == [
        ("no picture left", "missing picture")
    ]


def test_instructions_have_their_input_and_no_picture(world):
    unnatural, flan = (rows(name, world, "train") for name in ("unnatural_instructions", "flan_v2"))
    raw = json.loads((world / "unnatural_instructions/core_data.jsonl").read_text())
    assert [row.record.slots["question"] for row in unnatural] == [
        raw["instances"][0]["instruction_with_input"],
        raw["instruction"],
    ]
    raw = [json.loads(line) for line in (world / "flan_v2/t0_zs_opt_train.jsonl").read_text().splitlines()]
    assert flan[1].record.slots["question"] == f"{raw[1]['instruction']}\n{raw[1]['input']}"
    assert [row.record.answers for row in flan] == [("yes",), ("no",)]


OWN = [
    {"text": "one <image> two <image><image> three", "images": ["a.png", "b.png", "c.png"]},
    {"texts": ["one", None, None, "two"], "images": [None, "a.png", "b.png", None]},
    {"text": "no pictures at all"},
    {"text": "<image> gone <image> there", "images": ["gone.png", "a.png"]},
    {"text": "<image> gone", "images": ["gone.png"]},
    {"text": "one <image> two", "images": ["a.png", "b.png"]},
    {"text": "<image>", "images": ["a.png"]},
    {"texts": ["one", None], "images": ["a.png", None]},
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Own documents, prepared: the report, and the records."""
    root = tmp_path_factory.mktemp("own")
    for n, name in enumerate(("a.png", "b.png", "c.png")):
        (root / name).write_bytes(png(8, n))
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OWN))
    made = custom.release(root, (), name="own", format=None, encoding=None, validation=0.0)
    report = shards.write(root / "out", "own", made.splits(root, ()), workers=1)
    source = open_set(root / "out", "own", "train")
    return report.splits["train"], [source[n] for n in range(len(source))], root


def test_own_documents(own):
    report, records, root = own
    assert [record.parts for record in records] == [
        ("one", 0, "two", 1, 2, "three"),
        ("one", 0, 1, "two"),
        ("no pictures at all",),
        ("gone", 0, "there"),
    ]
    assert {record.task for record in records} == {"document"}
    data = [(root / f"{name}.png").read_bytes() for name in "abc"]
    assert [record.images for record in records] == [tuple(data), tuple(data[:2]), (), (data[0],)]
    assert report.reasons == {
        "missing pictures": 1,
        "pictures and <image> differ in number": 1,
        "document without text": 1,
        "not one of picture and text": 1,
    }
    assert report.noted == {"picture left out: missing picture": 1}


def test_own_shards_and_texts(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        members = {"x.json": json.dumps({"text": "<image>" * 11 + "all"}).encode()}
        members |= {f"x.{n}.png": png(8, n) for n in range(11)}
        members |= {"y.json": b'{"text": "a caption"}', "y.png": png(8)}
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

    def drafts(source):
        made = custom.release(source, (), name="own", format=None, encoding=None, validation=0.0)
        return list(made.splits(source, ())["train"]())

    document, caption = drafts(tmp_path / "train.tar")
    assert document.record.parts == (*range(11), "all")
    offsets = [media.offset for media in document.media]
    assert offsets == sorted(offsets)
    assert (caption.record.task, caption.record.answers) == ("caption", ("a caption",))
    (tmp_path / "texts").mkdir()
    for name, text in (("a", "A book.\n\nIts end.\n"), ("b", " \n")):
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    book, empty = drafts(tmp_path / "texts")
    assert (book.record.parts, book.media) == (("A book.\n\nIts end.",), ())
    assert empty.reason == "document without text"


def test_pictures_of_the_web_that_show_nothing_are_left_out(tmp_path):
    row = {
        "text_list": ["a", "b", "c"],
        "image_info": [{"image_name": f"{n}.png", "matched_text_index": n, "matched_sim": 1.0} for n in range(3)],
    }
    (tmp_path / "docs_shard_0_v2.jsonl").write_text(json.dumps(row) + "\n")
    for n, data in enumerate((png(80), png(60), png(600, colour=7))):
        (tmp_path / f"{n}.png").write_bytes(data + bytes(20_000 * (n > 0)))
    report = shards.write(tmp_path / "out", "mmc4", RELEASES["mmc4"].splits(tmp_path, ()), workers=1)
    (record,) = open_set(tmp_path / "out", "mmc4", "train")[:]
    assert record.parts == (0, "a b c")
    assert record.kinds == ("image",)
    assert report.splits["train"].noted == {
        "picture left out: a side below 64 pixels": 1,
        "picture left out: a single colour": 1,
    }
