"""Question answering sets, compared field by field with their raw files."""

import pytest
from drawing import drawn, listing, raw, rows, skips, tally

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft
from instructblip_jax.datasets.readers.releases import RELEASES

COCO_VQA = {"vqav2": "v2_", "okvqa": ""}


def vqa(name, split, key, question, file, said=None, slots=None, image_id=None, question_id=None, **more):
    told = {"answers": ()} if said is None else tally(said)
    slots = {"question": question, **(slots or {})}
    ids = {"image_id": image_id, "question_id": question_id}
    return Record(f"{name}/{split}/{key}", name, split, "vqa", (), slots, **ids, **told, **more), [file]


def coco_vqa_records(world, name, split):
    """VQAv2's and OKVQA's records, by looking each annotation up."""
    prefix, subtype = COCO_VQA[name], {"test": "test2015", "test-dev": "test-dev2015"}.get(split, f"{split}2014")
    folder = subtype.replace("-dev", "")
    annotations = []
    if split in ("train", "val"):
        annotations = raw(world / name / f"{prefix}mscoco_{subtype}_annotations.json")["annotations"]
    for row in raw(world / name / f"{prefix}OpenEnded_mscoco_{subtype}_questions.json")["questions"]:
        file = f"coco/{folder}/COCO_{folder}_{row['image_id']:012d}.jpg"
        more = {"said": None}
        for annotation in annotations:
            if annotation["question_id"] == row["question_id"]:
                names = ("answer_type", "question_type", "confidence")
                meta = {key: annotation[key] for key in names if key in annotation}
                more = {"said": [entry["answer"] for entry in annotation["answers"]], "meta": meta}
        ids = {"image_id": row["image_id"], "question_id": row["question_id"]}
        yield vqa(name, split, row["question_id"], row["question"], file, **ids, **more)


@pytest.mark.parametrize(
    ("name", "split"),
    [("vqav2", split) for split in ("train", "val", "test", "test-dev")] + [("okvqa", "train"), ("okvqa", "val")],
)
def test_coco_vqa(world, name, split):
    got = drawn(name, world, split)
    assert got == list(coco_vqa_records(world, name, split))
    assert {len(record.references) for record, _ in got} == ({0} if split.startswith("test") else {10})
    assert all(sum(record.weights) == pytest.approx(1) for record, _ in got if record.answers)


def aokvqa_records(world, split):
    for row in raw(world / f"aokvqa/aokvqa_v1p0_{split}.json"):
        blind = split == "test"
        yield vqa(
            "aokvqa",
            split,
            row["question_id"],
            row["question"],
            f"coco/{split}2017/{row['image_id']:012d}.jpg",
            None if blind else row["direct_answers"],
            {"options": listing(row["choices"])},
            image_id=row["image_id"],
            question_id=row["question_id"],
            candidates=tuple(row["choices"]),
            label=None if blind else row["correct_choice_idx"],
            meta={name: row[name] for name in ("difficult_direct_answer", "rationales") if name in row},
        )


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_aokvqa(world, split):
    assert drawn("aokvqa", world, split) == list(aokvqa_records(world, split))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("base", ["vqav2", "okvqa", "aokvqa"])
def test_question_generation(world, base, split):
    """The base's records with question and answer swapped, except the one whose answer is "unanswerable"."""
    want = []
    for old, files in aokvqa_records(world, split) if base == "aokvqa" else coco_vqa_records(world, base, split):
        if old.answers[0] != "unanswerable":
            uid = old.uid.replace(base, f"{base}_qg", 1)
            slots, answers = {"answer": old.answers[0]}, (old.slots["question"],)
            ids = {"image_id": old.image_id, "question_id": old.question_id}
            want.append((Record(uid, f"{base}_qg", split, "vqg", (), slots, answers, **ids), files))
    found = rows(f"{base}_qg", world, split)
    assert [
        (row.record, [str(media.path.relative_to(world)) for media in row.media])
        for row in found
        if isinstance(row, Draft)
    ] == want
    assert [reason for _, reason in skips(found)] == ([] if base == "aokvqa" else ["unanswerable"])


def test_question_generation_has_no_splits_without_answers(world):
    for base in ("vqav2", "okvqa", "aokvqa"):
        assert set(RELEASES[f"{base}_qg"].splits(world / base, ())) == {"train", "val"}


@pytest.mark.parametrize(("split", "number"), [("train", 1), ("val", 2), ("test", 3)])
def test_ocrvqa(world, split, number):
    want = []
    for place, (key, row) in enumerate(raw(world / "ocrvqa/dataset.json").items()):
        if row["split"] == number:
            ending = row["imageURL"][-4:]
            file = f"ocrvqa/images/{key}{ending}" if place != 4 else f"ocrvqa/images/4x{ending}"
            words = row.get("ocr_tokens", [])
            meta = {name: row[name] for name in ("title", "authorName", "genre")} | ({"ocr": words} if words else {})
            for k in range(2):
                slots = {"ocr": ", ".join(words)}
                asked, said = row["questions"][k], [row["answers"][k]]
                want.append(vqa("ocrvqa", split, f"{key}#{k}", asked, file, said, slots, image_id=key, meta=meta))
    got = drawn("ocrvqa", world, split)
    assert got == want
    missing = [file for _, (file,) in got if not (world / file).is_file()]
    assert len(missing) == (2 if split == "test" else 0)


@pytest.mark.parametrize("split", ["train_balanced", "val_balanced", "testdev_balanced", "test_balanced", "train_all"])
def test_gqa(world, split):
    files = [f"{split}_questions.json"]
    if split == "train_all":
        files = [f"train_all_questions/train_all_questions_{part}.json" for part in (9, 10)]
    want = []
    for file in files:
        for key, row in raw(world / "gqa" / file).items():
            meta = {name: row[name] for name in ("fullAnswer", "isBalanced") if name in row}
            if "types" in row:
                meta |= {"structural": "t", "semantic": "s", "detailed": "d", "global": "color"}
            said = [row["answer"]] if split != "test_balanced" else None
            picture = f"gqa/images/{row['imageId']}.jpg"
            ids = {"image_id": row["imageId"], "question_id": key}
            want.append(vqa("gqa", split, key, row["question"], picture, said, meta=meta, **ids))
    assert drawn("gqa", world, split) == want


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_textvqa(world, split):
    read = {
        row["image_id"]: row["ocr_tokens"]
        for row in raw(world / f"textvqa/TextVQA_Rosetta_OCR_v0.2_{split}.json")["data"]
    }
    want = []
    for row in raw(world / f"textvqa/TextVQA_0.5.1_{split}.json")["data"]:
        words = read[row["image_id"]]
        file = f"textvqa/{'test_images' if split == 'test' else 'train_images'}/{row['image_id']}.jpg"
        ids = {"image_id": row["image_id"], "question_id": row["question_id"]}
        meta = {"ocr": words, "image_classes": ["Sign"]}
        slots = {"ocr": ", ".join(words[:30])}
        want.append(
            vqa(
                "textvqa", split, row["question_id"], row["question"], file, row.get("answers"), slots, meta=meta, **ids
            )
        )
    assert drawn("textvqa", world, split) == want
    assert want[1][0].slots["ocr"] == ""
    assert want[2][0].slots["ocr"].endswith(", w29")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_vizwiz(world, split):
    want = []
    for row in raw(world / f"vizwiz/Annotations/{split}.json"):
        image = row["image"]
        said = [entry["answer"] for entry in row["answers"]] if split != "test" else None
        meta = {name: row[name] for name in ("answer_type", "answerable") if name in row}
        ids = {"image_id": image, "question_id": image}
        want.append(vqa("vizwiz", split, image, row["question"], f"vizwiz/{split}/{image}", said, meta=meta, **ids))
    assert drawn("vizwiz", world, split) == want
    if split != "test":
        assert "unanswerable" in want[1][0].answers
        assert all("" not in record.answers for record, _ in want)
