"""Caption sets, compared field by field with their raw files."""

import json
import unicodedata

from drawing import drawn, raw, skips

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media
from instructblip_jax.datasets.readers.releases import RELEASES


def tidy(text):
    return unicodedata.normalize("NFC", " ".join(text.split()))


def caption_records(name, split, image_id, said, meta, file, slots=None):
    """The records of a picture, as evaluation and training have them."""
    said = [tidy(text) for text in said]
    common = {"image_id": image_id, "meta": meta}
    if split == "train":
        return [
            (Record(f"{name}/train/{image_id}#{k}", name, split, "caption", (), slots or {}, (text,), **common), [file])
            for k, text in enumerate(said)
        ]
    answers = tuple(dict.fromkeys(said))
    record = Record(
        f"{name}/{split}/{image_id}", name, split, "caption", (), slots or {}, answers, references=tuple(said), **common
    )
    return [(record, [file])]


def test_coco_caption(world):
    want = {"train": [], "val": [], "test": []}
    for image in raw(world / "coco/dataset_coco.json")["images"]:
        split = image["split"].replace("restval", "train")
        said = [sentence["raw"] for sentence in image["sentences"]]
        meta = {"split": image["split"], "imgid": image["imgid"]}
        file = f"coco/{image['filepath']}/{image['filename']}"
        want[split] += caption_records("coco_caption", split, image["cocoid"], said, meta, file)
    for split, records in want.items():
        assert drawn("coco_caption", world, split) == records
    ((record, _),) = drawn("coco_caption", world, "val")
    assert len(record.references) == 5
    assert len(record.answers) == 4  # one is there twice
    assert "Café au lait" in record.answers
    assert drawn("coco_caption", world, "train")[1][0].answers == ("A lantern on a sail.",)


def test_coco_caption_of_the_official_files(world):
    (world / "coco/dataset_coco.json").rename(world / "dataset_coco.aside")
    try:
        for split in ("train", "val"):
            told = raw(world / f"coco/annotations/captions_{split}2014.json")
            want = []
            for image in told["images"]:
                said = [row["caption"] for row in told["annotations"] if row["image_id"] == image["id"]]
                meta = {"width": 4, "height": 3, "license": 1}
                want += caption_records(
                    "coco_caption", split, image["id"], said, meta, f"coco/{split}2014/{image['file_name']}"
                )
            assert drawn("coco_caption", world, split) == want
    finally:
        (world / "dataset_coco.aside").rename(world / "coco/dataset_coco.json")


def test_capfilt(world):
    want = []
    for k, row in enumerate(raw(world / "capfilt/annotation.json")):
        image_id = row["image"].split("/")[-1].removesuffix(".jpg")
        record = Record(
            f"capfilt/train/{k}", "capfilt", "train", "caption", (), {}, (row["caption"],), image_id=image_id
        )
        want.append((record, [f"capfilt/{row['image']}"]))
    got = drawn("capfilt", world, "train")
    assert got == want
    assert [(world / file).is_file() for _, (file,) in got] == [True, True, True, False]


def test_capfilt_in_its_other_forms(world):
    rows_of = raw(world / "capfilt/annotation.json")

    def read(file):
        found = list(RELEASES["capfilt"].splits(world / "capfilt" / file, [world / "capfilt"])["train"]())
        assert [(draft.record.answers, draft.record.image_id) for draft in found] == [
            ((row["caption"],), row["image"].split("/")[-1][:-4]) for row in rows_of
        ]
        return found

    data = (world / "capfilt/shards/00000.tar").read_bytes()
    for k, draft in enumerate(read("shards/00000.tar")):
        (media,) = draft.media
        assert media.path == world / "capfilt/shards/00000.tar"
        assert data[media.offset : media.offset + media.size] == b"picture %d" % k
        assert draft.record.uid == f"capfilt/train/00000/{k:09d}"
    for draft, row in zip(read("blip_laion_cc_sbu_558k.json")[:3], rows_of, strict=False):
        assert draft.media == (Media(world / "capfilt" / row["image"]),)
    assert [draft.media[0].path.name for draft in read("laion_synthetic_filtered_large.json")] == [
        row["image"].split("/")[-1] for row in rows_of
    ]


def test_textcaps(world):
    for split in ("train", "val", "test"):
        path = world / f"textcaps/TextVQA_Rosetta_OCR_v0.2_{split}.json"
        read = {row["image_id"]: row["ocr_tokens"] for row in raw(path)["data"]} if split != "test" else {}
        want, pictures = [], {}
        for row in raw(world / f"textcaps/TextCaps_0.1_{split}.json")["data"]:
            words = read.get(row["image_id"], [])
            slots = {"ocr": ", ".join(words[:30])}
            folder = "test_images" if split == "test" else "train_images"
            file = f"textcaps/{folder}/{row['image_id']}.jpg"
            record = Record(
                uid=f"textcaps/{split}/{row['caption_id']}",
                dataset="textcaps",
                split=split,
                task="caption",
                media=(),
                slots=slots,
                answers=(row["caption_str"],) if split != "test" else (),
                references=tuple(row["reference_strs"]) if split == "val" else (),
                image_id=row["image_id"],
                meta={"ocr": words, "image_classes": ["Poster"], "caption_id": row["caption_id"]},
            )
            want.append((record, [file]))
            if split == "val":
                pictures.setdefault(row["image_id"], (file, slots, words, []))[3].append(row["caption_str"])
        assert drawn("textcaps", world, split) == want
        if split == "val":
            views = [
                caption_records(
                    "textcaps", "val_images", image, said, {"ocr": words, "image_classes": ["Poster"]}, file, slots
                )[0]
                for image, (file, slots, words, said) in pictures.items()
            ]
            assert drawn("textcaps", world, "val_images") == views
            assert sorted(len(record.meta["ocr"]) for record, _ in views) == [0, 40]


def test_nocaps(world):
    told = raw(world / "nocaps/nocaps_val_4500_captions.json")
    want = []
    for image in told["images"]:
        said = [row["caption"] for row in told["annotations"] if row["image_id"] == image["id"]]
        meta = {name: image[name] for name in ("domain", "open_images_id") if name in image}
        want += caption_records("nocaps", "val", image["id"], said, meta, f"nocaps/validation/{image['file_name']}")
    assert drawn("nocaps", world, "val") == want
    assert {len(record.references) for record, _ in want} == {10}
    tests = []
    for image in raw(world / "nocaps/nocaps_test_image_info.json")["images"]:
        meta = {"open_images_id": image["open_images_id"]}
        uid = f"nocaps/test/{image['id']}"
        record = Record(uid, "nocaps", "test", "caption", (), {}, (), image_id=image["id"], meta=meta)
        tests.append((record, [f"nocaps/test/{image['file_name']}"]))
    assert drawn("nocaps", world, "test") == tests


def test_flickr30k(world):
    want = {"train": [], "val": [], "test": []}
    for image in raw(world / "flickr30k/dataset_flickr30k.json")["images"]:
        said = [sentence["raw"] for sentence in image["sentences"]]
        file = f"flickr30k/flickr30k-images/{image['filename']}"
        want[image["split"]] += caption_records(
            "flickr30k", image["split"], image["filename"][:-4], said, {"imgid": image["imgid"]}, file
        )
    for split, records in want.items():
        assert drawn("flickr30k", world, split) == records


def test_flickr30k_of_the_plain_files(world, tmp_path):
    """Both name all captions of all pictures, the line without its second bar among them; splits are made."""
    told = {
        image["filename"][:-4]: [sentence["raw"] for sentence in image["sentences"]]
        for image in raw(world / "flickr30k/dataset_flickr30k.json")["images"]
    }
    for file in ("results_20130124.token", "results.csv"):
        said = {}
        for split, make in RELEASES["flickr30k"].splits(world / "flickr30k" / file, ()).items():
            for draft in make():
                assert isinstance(draft, Draft)
                assert draft.record.split == split
                texts = draft.record.answers if split == "train" else draft.record.references
                said.setdefault(draft.record.image_id, []).extend(texts)
        assert said == told
    broken = tmp_path / "results.csv"
    broken.write_text("image_name| comment_number| comment\n1.jpg| x| y\n")
    found = [row for make in RELEASES["flickr30k"].splits(broken, ()).values() for row in make()]
    assert skips(found) == [("results.csv:2", "broken line")]


def test_empty_captions_are_reported(tmp_path):
    said = [{"raw": "a cup"}, {"raw": " \n"}, {"raw": None}, {"tokens": []}, "text"]
    image = {"cocoid": 1, "filepath": "train2014", "split": "train", "sentences": said}
    good = {**image, "cocoid": 2, "split": "val", "sentences": said[:2]}
    bad = [{**good, "sentences": [said[1]]}, {**good, "sentences": said}, {**good, "cocoid": None}]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": [image, good, *bad]}))
    splits = RELEASES["coco_caption"].splits(tmp_path, ())
    found = list(splits["train"]())
    assert [row.record.uid for row in found if isinstance(row, Draft)] == ["coco_caption/train/1#0"]
    assert [reason for _, reason in skips(found)] == ["empty answer", "wrong type", "wrong type", "wrong type"]
    found = list(splits["val"]())
    assert [row.record.references for row in found if isinstance(row, Draft)] == [("a cup",)]
    assert skips(found) == [
        ("dataset_coco.json:[2]", "empty answer"),
        ("dataset_coco.json:[3]", "wrong type"),
        ("dataset_coco.json:[4]", "wrong type"),
    ]
