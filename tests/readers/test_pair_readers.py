"""The sets of pre-training and retrieval, NLVR2 and SNLI-VE, compared field by field with their raw files."""

import io
import json
import tarfile

import pytest
from drawing import drawn, raw, skips
from fixtures.writing import put, put_json, put_lines
from test_caption_readers import caption_records, tidy

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media
from instructblip_jax.datasets.readers import nlvr2, snli_ve
from instructblip_jax.datasets.readers.releases import RELEASES


def pair(name, split, uid, image_id, *said):
    return Record(f"{name}/{split}/{uid}", name, split, "caption", (), {}, said, image_id=image_id)


def read(name, source, split="train", images=()):
    """Drafts and skips of a source."""
    return list(RELEASES[name].splits(source, images)[split]())


def drafted(name, source, split="train", images=()):
    found = read(name, source, split, images)
    assert all(isinstance(row, Draft) for row in found), skips(found)
    return found


# Pre-training


def test_coco_for_pretraining_has_a_record_for_each_picture(world):
    want = [
        (
            pair(
                "coco_pretrain",
                "train",
                image["cocoid"],
                str(image["cocoid"]),
                *dict.fromkeys(tidy(one["raw"]) for one in image["sentences"]),
            ),
            [f"coco/{image['filepath']}/{image['filename']}"],
        )
        for image in raw(world / "coco/dataset_coco.json")["images"]
        if image["split"] in ("train", "restval")
    ]
    assert len(want) == 4
    assert drawn("coco_pretrain", world, "train") == want


def test_lists_of_another_machine(tmp_path):
    """ALBEF's lists hold whole paths of where they were made, and one or several captions."""
    put(tmp_path / "coco/val2014/COCO_val2014_000000000021.jpg")
    there = "/export/data/coco/images/val2014/COCO_val2014_000000000021.jpg"
    rows = [
        {"image": there, "caption": ["A dog.", "", "A dog."]},
        {"image": there, "caption": "One  cat"},
        {"image": "/../../secret.jpg", "caption": "c"},
        {"image": "val2014/x.jpg", "caption": [""]},
        {"image": "val2014/x.jpg"},
    ]
    put_json(tmp_path / "coco/coco.json", rows)
    found = read("coco_pretrain", tmp_path / "coco")
    drafts = [row for row in found if isinstance(row, Draft)]
    assert [draft.record.answers for draft in drafts] == [("A dog.",), ("One cat",)]
    assert {draft.media[0].path for draft in drafts} == {tmp_path / "coco/val2014/COCO_val2014_000000000021.jpg"}
    reasons = ["path outside the image root", "empty answer", "missing field"]
    assert skips(found) == [(f"coco.json:[{n}]", reason) for n, reason in enumerate(reasons, 2)]
    absolute = str(tmp_path / "coco/val2014/COCO_val2014_000000000021.jpg")
    put_json(tmp_path / "coco/coco.json", [{"image": absolute, "caption": "here"}])
    assert str(drafted("coco_pretrain", tmp_path / "coco")[0].media[0].path) == absolute


def test_visual_genome_captions(world, tmp_path):
    rows = raw(world / "vg/vg.json")
    want = []
    for n, row in enumerate(rows):
        said = dict.fromkeys(tidy(text) for text in row["caption"])
        want.append((pair("vg_caption", "train", n, row["image"].split("/")[1][:-4], *said), [f"vg/{row['image']}"]))
    assert drawn("vg_caption", world, "train") == want
    assert len(want[3][0].answers) == 4  # of five one is there twice

    regions = [{"region_id": n, "image_id": 2, "phrase": text, "x": 1} for n, text in enumerate(("a cat", "a hat "))]
    put_json(tmp_path / "region_descriptions.json", [{"id": 2, "regions": regions}, {"id": 3, "regions": []}])
    found = read("vg_caption", tmp_path, images=[world / "vg"])
    assert found[0].record == pair("vg_caption", "train", 2, "2", "a cat", "a hat")
    assert found[0].media == (Media(world / "vg/VG_100K_2/2.jpg"),)
    assert skips(found) == [("region_descriptions.json:[1]", "empty answer")]


def test_visual_genome_questions(world, tmp_path):
    want = [
        (
            Record(
                f"vg_qa/train/{asked['qa_id']}",
                "vg_qa",
                "train",
                "vqa",
                (),
                {"question": asked["question"]},
                (asked["answer"],),
                (1.0,),
                (asked["answer"],),
                image_id=str(row["id"]),
                question_id=asked["qa_id"],
            ),
            [f"vg/VG_100K{'_2' if row['id'] in (2, 5) else ''}/{row['id']}.jpg"],
        )
        for row in raw(world / "vg/question_answers.json")
        for asked in row["qas"]
    ]
    assert drawn("vg_qa", world, "train") == want

    broken = [{"qa_id": 1, "question": "q?", "answer": ""}, {"qa_id": 2, "question": "q?", "answer": "a"}, None]
    put_json(tmp_path / "question_answers.json", [{"id": 5, "qas": broken}, {"id": 6, "qas": []}])
    found = read("vg_qa", tmp_path)
    assert [row.record.question_id for row in found if isinstance(row, Draft)] == [2]
    assert [reason for _, reason in skips(found)] == ["empty answer", "wrong type", "no question about the picture"]

    row = {"image": "image/5.jpg", "question": "Is it?", "answer": "yes", "question_id": 17, "dataset": "vg"}
    put_json(tmp_path / "vg_qa.json", [row])
    (draft,) = drafted("vg_qa", tmp_path, images=[world / "vg"])
    assert (draft.record.uid, draft.record.answers, draft.record.image_id) == ("vg_qa/train/17", ("yes",), "5")
    assert draft.media == (Media(world / "vg/VG_100K_2/5.jpg"),)


def test_sbu(world, tmp_path):
    held = raw(world / "sbu/sbu-captions-all.json")
    files = [address.split("/")[-1].split("?")[0] for address in held["image_urls"]]
    assert drawn("sbu", world, "train") == [
        (pair("sbu", "train", n, file[:-4], text), [f"sbu/images/{file}"])
        for n, (file, text) in enumerate(zip(files, held["captions"], strict=True))
    ]
    put_json(tmp_path / "sbu-captions-all.json", {"captions": ["a", "b"], "image_urls": ["http://h/x.jpg"]})
    with pytest.raises(ValueError, match=r"sbu-captions-all\.json: image_urls and captions differ in length"):
        read("sbu", tmp_path)
    put_json(tmp_path / "sbu.json", [{"image": "0001/y.jpg", "caption": "a", "url": "http://h/x.jpg"}])
    (draft,) = drafted("sbu", tmp_path)
    assert (draft.record.image_id, draft.media[0].path) == ("y", tmp_path / "0001/y.jpg")


@pytest.mark.parametrize(
    ("name", "split", "file", "address"),
    [
        ("cc3m", "train", "Train_GCC-training.tsv", 1),
        ("cc3m", "val", "Validation_GCC-1.1.0-Validation.tsv", 1),
        ("cc12m", "train", "cc12m.tsv", 0),
    ],
)
def test_tables_of_captions_and_addresses(world, tmp_path, name, split, file, address):
    rows = [line.split("\t") for line in (world / name / file).read_text().splitlines()]
    want = []
    for n, row in enumerate(rows):
        picture = row[address].split("/")[-1].split("?")[0]
        want.append((pair(name, split, n, picture[:-4], tidy(row[1 - address])), [f"{name}/images/{picture}"]))
    assert drawn(name, world, split) == want
    # The order of the columns follows from what they hold.
    put(tmp_path / file, "".join(f"{row[1]}\t{row[0]}\n" for row in rows))
    found = drafted(name, tmp_path, split, [world / name])
    assert [(row.record, row.media[0].path) for row in found] == [(one, world / path) for one, (path,) in want]


def test_a_table_whose_order_is_not_clear_is_refused(tmp_path):
    path = put(tmp_path / "cc12m.tsv", "http://h/1.jpg\thttps://h/2.jpg\n" * 3)
    with pytest.raises(ValueError, match=r"cc12m\.tsv: both of its two columns hold addresses"):
        read("cc12m", tmp_path)
    path.write_text("a\tb\nhttp://h/x.jpg\tc\nd\te\n")
    with pytest.raises(ValueError, match=r"cc12m\.tsv: none of its two columns holds addresses"):
        read("cc12m", tmp_path)
    path.write_text("http://h/a.jpg\ta\nhttp://h/\tb\nhttp://h/c.jpg\tc\td\n\nnone\tx\nhttp://h/e.jpg\t \n")
    found = read("cc12m", tmp_path)
    assert [row.record.uid for row in found if isinstance(row, Draft)] == ["cc12m/train/0"]
    assert skips(found) == [
        ("cc12m.tsv:2", "no file name in the url"),
        ("cc12m.tsv:3", "broken line"),
        ("cc12m.tsv:5", "broken line"),
        ("cc12m.tsv:6", "empty answer"),
    ]


def members(path):
    """key.ending -> bytes of an archive."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_laion(world):
    found = drafted("laion", world / "laion")
    assert len({row.record.uid for row in found}) == 6  # though both archives have the same name and keys
    for n, row in enumerate(found):
        part, k = divmod(n, 3)
        path = world / f"laion/part-{part:05d}/00000.tar"
        held = members(path)
        said = json.loads(held[f"{k:09d}.json"])
        texts = said[:2] if k == 1 else [held[f"{k:09d}.txt"].decode() if k == 2 else said["caption"]]
        uid = f"part-{part:05d}/00000/{k:09d}"
        assert row.record == pair("laion", "train", uid, f"{k:09d}", *dict.fromkeys(map(tidy, texts)))
        (media,) = row.media
        assert media.path == path
        assert path.read_bytes()[media.offset : media.offset + media.size] == held[f"{k:09d}.jpg"]


def test_shards_with_rows_that_cannot_be_read(tmp_path):
    archive = io.BytesIO()
    files = {
        "1.json": b'{"caption": "a"}',
        "2.jpg": b"x",
        "3.jpg": b"x",
        "3.json": b"[]",
        "4.jpg": b"x",
        "4.json": b"{",
    }
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    put(tmp_path / "00000.tar", archive.getvalue())
    found = read("cc12m", tmp_path)
    reasons = ["no picture in the sample", "missing field", "empty answer", "broken caption"]
    assert skips(found) == [(f"00000.tar:{n}", reason) for n, reason in enumerate(reasons, 1)]
    put(tmp_path / "00000.tar", archive.getvalue()[:700])
    with pytest.raises(ValueError, match=r"00000\.tar: not a complete tar archive"):
        read("cc12m", tmp_path)


def test_parquet_tables_with_pictures(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    held = {
        "jpg": [b"p", None, b"r", b"s"],
        "caption": ["a", "b", " ", "d"],
        "key": ["7", "8", "9", None],
        "url": list("wxyz"),
    }
    parquet.write_table(pyarrow.table(held), tmp_path / "00000.parquet")
    addresses = pyarrow.table({"URL": ["http://h/x.jpg"], "TEXT": ["x"]})
    parquet.write_table(addresses, tmp_path / "00001.parquet")  # holds no pictures
    for source in (tmp_path, tmp_path / "00000.parquet"):
        first, no_picture, empty, last = read("laion", source)
        assert first.record == pair("laion", "train", "00000/7", "7", "a")
        assert first.media == (Media(data=b"p"),)
        assert last.record == pair("laion", "train", "00000/3", "3", "d")
        assert skips([no_picture, empty]) == [
            ("00000.parquet:1", "no picture in the sample"),
            ("00000.parquet:2", "empty answer"),
        ]
    with pytest.raises(FileNotFoundError, match=r"\*\.parquet with pictures"):
        read("laion", tmp_path / "00001.parquet")
    put(tmp_path / "00000.parquet", b"PAR1")
    with pytest.raises(ValueError, match=r"00000\.parquet: broken Parquet file"):
        read("laion", tmp_path)


# Retrieval


def test_retrieval_has_a_row_for_each_caption_in_training_and_for_each_picture_in_evaluation(world):
    for name, source, key in (
        ("coco_retrieval", "coco/dataset_coco.json", "cocoid"),
        ("flickr30k_retrieval", "flickr30k/dataset_flickr30k.json", "filename"),
    ):
        want = {"train": [], "val": [], "test": []}
        for image in raw(world / source)["images"]:
            split, said = image["split"].replace("restval", "train"), [one["raw"] for one in image["sentences"]]
            if name == "coco_retrieval":
                meta = {"split": image["split"], "imgid": image["imgid"]}
                image_id, file = image[key], f"coco/{image['filepath']}/{image['filename']}"
            else:
                meta, file = {"imgid": image["imgid"]}, f"flickr30k/flickr30k-images/{image[key]}"
                image_id = image[key].removesuffix(".jpg")
            want[split] += caption_records(name, split, image_id, said, meta, file)
        for split, records in want.items():
            assert drawn(name, world, split) == records
        train = [record for record, _ in want["train"]]
        assert len(train) > len({record.image_id for record in train}) == len({record.identity for record in train})


@pytest.mark.parametrize(
    ("name", "file", "image", "image_id"),
    [
        ("coco_retrieval", "coco_{}.json", "val2014/COCO_val2014_000000000022.jpg", 22),
        ("flickr30k_retrieval", "flickr30k_{}.json", "flickr30k-images/1007129816.jpg", "1007129816"),
    ],
)
def test_albefs_lists_for_retrieval(tmp_path, name, file, image, image_id):
    put(tmp_path / image)
    put_json(tmp_path / file.format("train"), [{"image": image, "caption": text, "image_id": 7} for text in "ab"])
    put_json(tmp_path / file.format("test"), [{"image": image, "caption": ["z", "a", "z", "b"]}])
    first, second = drafted(name, tmp_path)
    assert [one.record.uid for one in (first, second)] == [f"{name}/train/{image_id}#0", f"{name}/train/{image_id}#1"]
    assert first.record.image_id == second.record.image_id == image_id
    (test,) = drafted(name, tmp_path, "test")
    assert test.record.references == ("z", "a", "z", "b")  # in the file's order, all of them
    assert test.media == (Media(tmp_path / image),)
    assert RELEASES[name].splits(tmp_path, ()).keys() == {"train", "test"}


def test_retrieval_is_not_read_from_files_without_karpathys_splits(world, tmp_path):
    source = world / "coco/annotations/captions_val2014.json"
    put(tmp_path / "annotations/captions_val2014.json", source.read_bytes())
    put(tmp_path / "results_20130124.token", (world / "flickr30k/results_20130124.token").read_bytes())
    for name in ("coco", "flickr30k"):
        assert RELEASES["flickr30k" if name == "flickr30k" else "coco_caption"].splits(tmp_path, ())
        with pytest.raises(FileNotFoundError, match=rf"dataset_{name}\.json"):
            RELEASES[f"{name}_retrieval"].splits(tmp_path, ())


# Two pictures, and hypotheses


def test_nlvr2(world):
    for split in ("train", "dev", "test1"):
        folder = "nlvr2/images/train/36" if split == "train" else f"nlvr2/{split}"
        rows = [json.loads(line) for line in (world / f"nlvr2/{split}.json").read_text().splitlines()]
        want = []
        for row in rows:
            _, of, number, sentence = row["identifier"].split("-")
            record = Record(
                f"nlvr2/{split}/{row['identifier']}",
                "nlvr2",
                split,
                "choice",
                (),
                {"sentence": row["sentence"]},
                (row["label"],),
                (1.0,),
                (row["label"],),
                candidates=("False", "True"),
                label=int(row["label"] == "True"),
                image_id=f"{split}-{of}-{number}",
                question_id=row["identifier"],
                meta={
                    "group": f"{split}-{of}-{sentence}",
                    **{key: row[key] for key in ("synset", "query", "writer")},
                },
            )
            want.append((record, [f"{folder}/{split}-{of}-{number}-img{side}.png" for side in (0, 1)]))
        assert drawn("nlvr2", world, split) == want
        assert len({record.meta["group"] for record, _ in want}) == 2  # of two pairs each
    assert nlvr2.CLASSES == ("False", "True")


def test_lists_of_nlvr2(world, tmp_path):
    images = [f"test1/test1-7-1-img{side}.png" for side in (0, 1)]
    row = {"images": images, "sentence": "Two  dogs.", "label": "True"}
    rows = [
        row,
        row | {"label": False, "images": [f"images/{image}" for image in images]},
        row | {"label": "maybe"},
        row | {"images": images[:1]},
    ]
    put_json(tmp_path / "nlvr_test.json", rows)
    put_json(tmp_path / "nlvr_dev.json", rows[:1])
    found = read("nlvr2", tmp_path, "test1", [world / "nlvr2"])
    records = [row.record for row in found if isinstance(row, Draft)]
    assert [(one.uid, one.label) for one in records] == [("nlvr2/test1/0", 1), ("nlvr2/test1/1", 0)]
    assert len({one.meta["group"] for one in records}) == 1
    assert [media.path for media in found[0].media] == [world / "nlvr2" / image for image in images]
    assert found[0].media == found[1].media
    assert skips(found) == [
        ("nlvr_test.json:[2]", "label outside the candidates"),
        ("nlvr_test.json:[3]", "not two pictures"),
    ]
    assert RELEASES["nlvr2"].splits(tmp_path, ()).keys() == {"dev", "test1"}


def test_snli_ve(world, tmp_path):
    for split in ("train", "dev", "test"):
        rows = [json.loads(line) for line in (world / f"snli_ve/snli_ve_{split}.jsonl").read_text().splitlines()]
        for n, (row, (record, (file,))) in enumerate(zip(rows, drawn("snli_ve", world, split), strict=True)):
            assert record.uid == f"snli_ve/{split}/{n}"
            assert record.slots == {"sentence": tidy(row["sentence2"])}
            assert record.candidates == ("contradiction", "neutral", "entailment") == snli_ve.CLASSES
            assert record.answers == (row["gold_label"],) == (record.candidates[record.label],)
            assert record.meta["pairID"] == row["pairID"]
            assert file == f"snli_ve/flickr30k-images/{record.image_id}.jpg"
    rows = [
        {"image": "12", "sentence": "A dog.", "label": "neutral"},
        {"image": "12", "sentence": "A dog.", "label": "-"},
        {"image": "12", "label": "neutral"},
    ]
    put_json(tmp_path / "ve_train.json", rows)
    put_lines(tmp_path / "snli_ve_dev.jsonl", [{"Flickr30K_ID": 13, "gold_label": "entailment", "sentence2": "x"}])
    found = read("snli_ve", tmp_path)
    assert (found[0].record.label, found[0].record.image_id) == (1, "12")
    assert [reason for _, reason in skips(found)] == ["label outside the candidates", "missing field"]
    (draft,) = drafted("snli_ve", tmp_path, "dev")
    assert (draft.record.label, draft.record.image_id) == (2, "13")
