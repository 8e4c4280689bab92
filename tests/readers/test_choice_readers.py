"""Sets with candidates, compared field by field with their raw files."""

import json

import pytest
from drawing import drawn, listing, raw, tally

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.readers.releases import RELEASES


def json_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "split", [f"{kind}/{part}" for kind in ("random", "zeroshot") for part in ("train", "dev", "test")]
)
def test_vsr(world, split):
    want = []
    for k, row in enumerate(json_rows(world / f"vsr/splits/{split}.jsonl")):
        told = ("relation", "annotator_id", "subj", "obj")
        record = Record(
            uid=f"vsr/{split}/{k}",
            dataset="vsr",
            split=split,
            task="binary",
            media=(),
            slots={"statement": row["caption"]},
            candidates=("no", "yes"),
            label=row["label"],
            image_id=row["image"].split(".")[0],
            question_id=k,
            meta={name: row[name] for name in told if name in row},
            **tally(["yes" if row["label"] == 1 else "no"]),
        )
        want.append((record, [f"vsr/images/{row['image']}"]))
    assert drawn("vsr", world, split) == want
    assert [record.answers for record, _ in want] == [("no",), ("yes",)]


@pytest.mark.parametrize("split", ["train", "dev_seen", "dev_unseen", "test_seen", "test_unseen"])
def test_hateful_memes(world, split):
    want = []
    for row in json_rows(world / f"hateful_memes/{split}.jsonl"):
        said = {"answers": ()} if "label" not in row else tally([["no", "yes"][row["label"]]])
        slots, uid = {"text": row["text"]}, f"hateful_memes/{split}/{row['id']}"
        ids = {"image_id": row["id"], "question_id": row["id"]}
        record = Record(
            uid,
            "hateful_memes",
            split,
            "binary",
            (),
            slots,
            candidates=("no", "yes"),
            label=row.get("label"),
            **ids,
            **said,
        )
        want.append((record, [f"hateful_memes/img/{row['id']:05d}.png"]))
    assert drawn("hateful_memes", world, split) == want


def test_an_older_drop_of_hateful_memes(tmp_path):
    """dev.jsonl is read as dev_seen if dev_seen.jsonl is missing."""
    for name in ("dev", "test", "train"):
        row = {"id": 7, "img": "img/00007.png", "text": name, "label": 0}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    splits = RELEASES["hateful_memes"].splits(tmp_path, ())
    assert {split: [draft.record.slots["text"] for draft in make()] for split, make in splits.items()} == {
        "train": ["train"],
        "dev_seen": ["dev"],
        "test_seen": ["test"],
    }
    (tmp_path / "dev_seen.jsonl").write_text("")
    assert list(RELEASES["hateful_memes"].splits(tmp_path, ())["dev_seen"]()) == []


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("task", ["choose_img", "choose_txt", "fill_in_blank"])
def test_iconqa(world, task, part):
    root, split = world / "iconqa/iconqa_data", f"{task}/{part}"
    problems, want = raw(root / "problems.json"), []
    for pid in raw(root / "pid_splits.json")[f"{task}_{part}"]:
        row = problems[pid]
        files = [f"iconqa/iconqa_data/iconqa/{part}/{task}/{pid}/image.png"]
        slots = {"question": row["question"]}
        more = tally([row["answer"]]) if task == "fill_in_blank" else {}
        if task == "choose_txt":
            more = {
                **tally([row["choices"][row["answer"]]]),
                "candidates": tuple(row["choices"]),
                "label": row["answer"],
            }
            slots["options"] = listing(row["choices"])
        elif task == "choose_img":
            files += [files[0].replace("image", "choice_0"), files[0].replace("image", "choice_1")]
            more = {**tally(["b"]), "candidates": ("a", "b"), "label": 1}
            slots["options"] = "(a) picture 2 (b) picture 3"
        kind = "vqa" if task == "fill_in_blank" else "choice"
        ids = {"image_id": pid, "question_id": pid}
        meta = {"grade": "grade1", "label": "S"}
        want.append(
            (Record(f"iconqa/{split}/{pid}", "iconqa", split, kind, (), slots, meta=meta, **ids, **more), files)
        )
    got = drawn("iconqa", world, split)
    assert got == want
    assert all((world / file).is_file() for _, files in got for file in files)


def test_iconqa_without_its_lists(world, tmp_path):
    """The problems' own folders give the same records, in the order of their ids."""
    (tmp_path / "iconqa").symlink_to(world / "iconqa/iconqa_data/iconqa")
    whole = RELEASES["iconqa"].splits(world / "iconqa/iconqa_data", ())
    parts = RELEASES["iconqa"].splits(tmp_path, ())
    assert whole.keys() == parts.keys()
    for split, make in parts.items():
        own = sorted((draft.record for draft in whole[split]()), key=lambda record: int(record.question_id))
        assert [draft.record for draft in make()] == own
        assert all(media.path.is_file() for draft in make() for media in draft.media)


@pytest.mark.parametrize("split", ["train", "train_img", "val", "val_img", "test", "test_img"])
def test_scienceqa(world, split):
    problems, want = raw(world / "scienceqa/problems.json"), []
    part = split.removesuffix("_img")
    for pid in raw(world / "scienceqa/pid_splits.json")[part]:
        row = problems[pid]
        if row["image"] is None and split != part:
            continue
        right = row["choices"][row["answer"]]
        told = ("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
        record = Record(
            uid=f"scienceqa/{split}/{pid}",
            dataset="scienceqa",
            split=split,
            task="choice",
            media=(),
            slots={"question": row["question"], "context": row["hint"], "options": listing(row["choices"])},
            answers=(right,),
            references=(right,),
            candidates=tuple(row["choices"]),
            label=row["answer"],
            image_id=pid if row["image"] else None,
            question_id=pid,
            meta={name: row[name] for name in told},
        )
        want.append((record, [f"scienceqa/images/{part}/{pid}/image.png"] if row["image"] else []))
    assert drawn("scienceqa", world, split) == want
    assert [files for _, files in want].count([]) == (1 if split == part else 0)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_visdial(world, split):
    told = raw(world / f"visdial/visdial_1.0_{split}.json")["data"]
    asked, said = told["questions"], told["answers"]
    dense = raw(world / "visdial/visdial_1.0_val_dense_annotations.json")[0]
    want = []
    for dialog in told["dialogs"]:
        number, lines = dialog["image_id"], [dialog["caption"]]
        for k, entry in enumerate(dialog["dialog"], 1):
            if split != "test" or k == len(dialog["dialog"]):
                answers = tally([said[entry["answer"]]]) if split != "test" else {"answers": ()}
                judged = split == "val" and (number, k) == (dense["image_id"], dense["round_id"])
                record = Record(
                    uid=f"visdial/{split}/{number}#{k}",
                    dataset="visdial",
                    split=split,
                    task="rank",
                    media=(),
                    slots={"question": asked[entry["question"]], "history": " ".join(lines)},
                    candidates=tuple(said[option] for option in entry["answer_options"]),
                    label=entry.get("gt_index"),
                    relevance=tuple(map(float, dense["gt_relevance"])) if judged else (),
                    image_id=number,
                    meta={"round_id": k},
                    **answers,
                )
                folder = f"VisualDialog_{split}2018"
                file = f"visdial/{folder}/{folder}_{number:012d}.jpg"
                if split == "train":
                    own = "train2014" if number == 11 else "val2014"
                    # the numbers of 2014 and 2017 are one set; the official folder of this one is another year's
                    file = (
                        f"coco/{own}/COCO_{own}_{number:012d}.jpg"
                        if number == 11
                        else f"coco/val2017/{number:012d}.jpg"
                    )
                want.append((record, [file]))
            if "answer" in entry:
                lines.append(f"q: {asked[entry['question']]} a: {said[entry['answer']]}")
    got = drawn("visdial", world, split)
    assert got == want
    assert {len(record.candidates) for record, _ in got} == {100}
    assert [record.uid for record, _ in got if record.relevance] == (["visdial/val/9001#3"] if split == "val" else [])
