"""Variants of the official files in circulation: other orders, more fields, other folders, LAVIS's copies, bad rows."""

import json
import random
import shutil

import pytest
from drawing import raw, skips
from fixtures import ROOTS

from instructblip_jax.datasets.draft import Draft, Media
from instructblip_jax.datasets.readers.releases import RELEASES


def shuffled(value, rng):
    """A JSON value with the fields of its objects in another order, and with more of them where they are rows."""
    if isinstance(value, list):
        return [shuffled(item, rng) for item in value]
    if not isinstance(value, dict):
        return value
    items = [(key, shuffled(item, rng)) for key, item in value.items()]
    if "question" in value or "caption" in value or "image" in value:
        items.append(("of no use", {"deep": [None, 1.5, "x"]}))
    rng.shuffle(items)
    return dict(items)


KEYED = {"ocrvqa"}  # the order of its covers is that of its fields
NAMES = [name for name in RELEASES if name not in ("ivqa", "laion")]


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_fields_does_not_matter(one_world, tmp_path, name):
    source = one_world / ROOTS.get(name, name)
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("*.jpg", "*.png", "*.gif")
    shutil.copytree(source, copy, ignore=ignored)
    rng = random.Random(3)
    by_lines = {*copy.rglob("*.jsonl"), *(copy.glob("*.json") if name == "nlvr2" else ())}
    for path in sorted(set(copy.rglob("*.json")) - by_lines):
        path.write_text(json.dumps(shuffled(raw(path), rng)), encoding="utf-8")
    for path in sorted(by_lines):
        found = [json.dumps(shuffled(json.loads(line), rng)) for line in path.read_text().splitlines()]
        path.write_text("\ufeff" + "\r\n".join(found), encoding="utf-8")
    roots = [source, one_world / "coco"]
    before, after = RELEASES[name].splits(source, roots), RELEASES[name].splits(copy, roots)
    assert before.keys() == after.keys()
    for split, make in before.items():
        want = [(row.record, row.media) for row in make() if isinstance(row, Draft)]
        got = [(row.record, row.media) for row in after[split]() if isinstance(row, Draft)]
        if name in ("ocrvqa", "gqa", "capfilt"):  # their order is that of the keys; shards are of the first copy
            want, got = ([repr(pair) for pair in pairs] for pairs in (want, got))
            assert sorted(want) == sorted(got)
        else:
            assert got == want


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("coco_caption", ["coco"]),
        ("capfilt", ["capfilt"]),
        ("capfilt", ["capfilt/images"]),
        ("textcaps", ["textcaps/train_images", "textcaps/test_images"]),
        ("vqav2", ["coco"]),
        ("vqav2", ["coco/train2014", "coco/val2014", "coco/test2015"]),
        ("aokvqa", ["coco/train2017", "coco/val2017", "coco/test2017"]),
        ("ocrvqa", ["ocrvqa/images"]),
        ("llava_conv", ["coco/train2017"]),
        ("llava_instruct_150k", ["coco"]),
        ("llava_cc3m_595k", ["llava_cc3m_595k/images"]),
        ("llava_lcs_558k", ["llava_lcs_558k"]),
        (
            "llava_v1_5_mix665k",
            [f"llava_v1_5_mix665k/{part}" for part in ("coco/train2017", "gqa", "ocr_vqa/images", "textvqa", "vg")],
        ),
        ("nocaps", ["nocaps/validation", "nocaps/test"]),
        ("flickr30k", ["flickr30k/flickr30k-images"]),
        ("coco_retrieval", ["coco"]),
        ("flickr30k_retrieval", ["flickr30k/flickr30k-images"]),
        ("coco_pretrain", ["coco/train2014", "coco/val2014"]),
        ("vg_caption", ["vg/VG_100K", "vg/VG_100K_2"]),
        ("vg_qa", ["vg"]),
        ("sbu", ["sbu/images"]),
        ("cc3m", ["cc3m"]),
        ("cc12m", ["cc12m/images"]),
        ("nlvr2", ["nlvr2"]),
        ("snli_ve", ["snli_ve/flickr30k-images"]),
        ("gqa", ["gqa/images"]),
        ("vsr", ["vsr/images"]),
        ("iconqa", ["iconqa/iconqa_data/iconqa"]),
        ("textvqa", ["textvqa/train_images", "textvqa/test_images"]),
        ("visdial", ["coco", "visdial"]),
        ("hateful_memes", ["hateful_memes/img"]),
        ("vizwiz", ["vizwiz/train", "vizwiz/val", "vizwiz/test"]),
        ("scienceqa", ["scienceqa/images"]),
        ("msvd_qa", ["msvd_qa/YouTubeClips", "msvd_qa/frames"]),
        ("msrvtt_qa", ["msrvtt_qa/TrainValVideo", "msrvtt_qa/TestVideo"]),
        ("ivqa", ["ivqa/video"]),
    ],
)
def test_the_pictures_own_folders_may_be_given(one_world, tmp_path, name, folders):
    """The annotations lie elsewhere, alone; all pictures but those that were never there are found."""
    source = one_world / ROOTS.get(name, name)
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("*.jpg", "*.png", "*.gif", "*.avi", "*.mp4", "*.webm", "frames")
    shutil.copytree(source, copy, ignore=ignored)
    missing = 0
    for make in RELEASES[name].splits(copy, [tmp_path / "none", *(one_world / folder for folder in folders)]).values():
        for row in make():
            assert isinstance(row, Draft)
            missing += sum(not media.path.exists() for media in row.media)
    assert missing == {"capfilt": 1, "ocrvqa": 2}.get(name, 0)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def read(name, source, images=()):
    """Split -> records and the names of their pictures."""
    found = {}
    for split, make in RELEASES[name].splits(source, images).items():
        found[split] = [(row.record, [media.path.name for media in row.media]) for row in make()]
    return found


def test_lavis_copy_of_coco_caption(tmp_path):
    image = "val2014/COCO_val2014_000000000777.jpg"
    rows = [{"image": image, "caption": text, "image_id": "coco_777"} for text in ("a", "b ")]
    write(tmp_path / "annotations/coco_karpathy_train.json", rows)
    write(tmp_path / "annotations/coco_karpathy_test.json", [{"caption": ["a", "b"], "image": image}])
    found = read("coco_caption", tmp_path)
    assert list(found) == ["train", "test"]
    assert [record.answers for record, _ in found["train"]] == [("a",), ("b",)]
    assert [record.uid for record, _ in found["train"]] == ["coco_caption/train/777#0", "coco_caption/train/777#1"]
    ((record, files),) = found["test"]
    assert (record.references, record.image_id, files) == (("a", "b"), 777, [image.split("/")[1]])
    assert read("coco_caption", tmp_path / "annotations")["test"] == found["test"]


def test_lavis_copies_of_vqa(tmp_path):
    said = ["red", "blue", "red", ""]
    row = {"question_id": 5, "question": "What?", "answer": said, "image": "val2014/COCO_val2014_000000000777.jpg"}
    for name, file in (("vqav2", "lavis/vqa_val.json"), ("okvqa", "okvqa_train.json")):
        write(tmp_path / file, [row, {**row, "question_id": 6, "answer": "red"}])
        ((record, files), (second, _)) = next(iter(read(name, tmp_path).values()))
        assert (record.answers, record.weights) == (("red", "blue"), (2 / 3, 1 / 3))
        assert record.references == tuple(said)
        assert (record.image_id, record.question_id, files) == (777, 5, ["COCO_val2014_000000000777.jpg"])
        assert second.answers == ("red",)


def test_lavis_copies_of_the_rest(one_world, tmp_path):
    write(tmp_path / "n/lavis/nocaps_val.json", [{"image": "val/0f.jpg", "caption": ["a", "b"], "img_id": 3}])
    ((record, files),) = read("nocaps", tmp_path / "n")["val"]
    assert (record.references, record.image_id, files) == (("a", "b"), 3, ["0f.jpg"])
    write(tmp_path / "f/flickr30k_test.json", [{"image": "flickr30k-images/12.jpg", "caption": ["a", "b"]}])
    write(tmp_path / "f/flickr30k_train.json", [{"image": "flickr30k-images/12.jpg", "caption": "a", "image_id": "12"}])
    found = read("flickr30k", tmp_path / "f")
    assert found["test"][0][0].references == ("a", "b")
    assert found["train"][0][0].uid == "flickr30k/train/12#0"
    write(
        tmp_path / "g/testdev_balanced_questions.json",
        [{"image": "n5.jpg", "question": "q", "answer": "a", "question_id": "9"}],
    )
    ((record, files),) = read("gqa", tmp_path / "g")["testdev_balanced"]
    assert (record.image_id, record.question_id, record.answers, files) == ("n5", "9", ("a",), ["n5.jpg"])
    row = {"video": "clip_1.avi", "question": "q", "answer": "a", "question_id": "test_0"}
    write(tmp_path / "m/lavis/qa_test.json", [row])
    for name in ("msvd_qa", "msrvtt_qa"):
        ((record, files),) = read(name, tmp_path / "m")["test"]
        assert (record.image_id, record.question_id, record.answers, files) == (
            "clip_1",
            "test_0",
            ("a",),
            ["clip_1.avi"],
        )
    row = {"image": "test_77.png", "question": "q", "choices": ["x", "y"], "answer": 1}
    write(tmp_path / "i/annotations_test.json", [row])
    ((record, _),) = read("iconqa", tmp_path / "i")["choose_txt/test"]
    assert (record.question_id, record.candidates, record.label) == ("77", ("x", "y"), 1)


def test_the_official_files_go_before_copies(one_world, tmp_path):
    shutil.copytree(one_world / "vqav2", tmp_path / "vqav2")
    before = read("vqav2", tmp_path / "vqav2")
    write(tmp_path / "vqav2/lavis/vqa_train.json", [])
    assert read("vqav2", tmp_path / "vqav2") == before


def test_one_file_may_be_the_source(one_world):
    conv = RELEASES["llava_conv"].splits(one_world / "llava/conversation_58k.json", ())
    assert [len(row.record.turns) for row in conv["train"]()] == [2, 2, 2, 2]
    assert list(RELEASES["textvqa"].splits(one_world / "textvqa/TextVQA_0.5.1_val.json", ())) == ["val"]
    (row, *_) = RELEASES["textvqa"].splits(one_world / "textvqa/TextVQA_0.5.1_val.json", ())["val"]()
    assert row.record.slots["ocr"] == "NORD, 7, café"
    assert row.media[0].path.is_file()
    assert list(RELEASES["vsr"].splits(one_world / "vsr/splits/zeroshot/test.jsonl", ())) == ["zeroshot/test"]
    assert list(RELEASES["vqav2"].splits(one_world / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", ())) == ["val"]


def test_textcaps_reads_the_words_of_textvqa_beside_it(one_world, tmp_path):
    shutil.copytree(one_world / "textcaps", tmp_path / "textcaps")
    before = read("textcaps", tmp_path / "textcaps")
    (tmp_path / "textvqa").mkdir()
    for path in (tmp_path / "textcaps").glob("TextVQA_Rosetta*"):
        path.rename(tmp_path / "textvqa" / path.name)
    assert read("textcaps", tmp_path / "textcaps") == before
    shutil.rmtree(tmp_path / "textvqa")
    assert {record.slots["ocr"] for record, _ in read("textcaps", tmp_path / "textcaps")["train"]} == {""}


def test_a_path_out_of_the_root_is_a_skip(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    names = ["../secret.jpg", str(tmp_path / "secret.jpg"), "a/../../secret.jpg"]
    write(tmp_path / "c/annotation.json", [{"image": name, "caption": "c"} for name in names])
    write(
        tmp_path / "c/detail_23k.json",
        [
            {
                "id": 1,
                "image": names[0],
                "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
            }
        ],
    )
    (tmp_path / "c/train.jsonl").write_text(json.dumps({"id": 1, "img": names[0], "text": "x", "label": 1}))
    write(tmp_path / "c/train.json", [{"image": names[0], "question": "q", "answers": [{"answer": "a"}]}])
    for name, count in (("capfilt", 3), ("llava_detail", 1), ("hateful_memes", 1), ("vizwiz", 1)):
        found = list(RELEASES[name].splits(tmp_path / "c", [tmp_path / "c"])["train"]())
        assert [reason for _, reason in skips(found)] == ["path outside the image root"] * count


def test_unusable_rows(tmp_path):
    """Each is reported with its location, and the rows around it are read."""
    good = {"image_id": 1, "question": "What?", "question_id": 1}
    questions = [
        good,
        {**good, "question_id": 2, "question": None},
        {**good, "question_id": 3, "question": ["What?"]},
        {**good, "question_id": 4, "question": "\ud800"},
        {**good, "question_id": 5, "question": " "},
        {**good, "question_id": 6},
        {**good, "question_id": 7},
        {"image_id": 1, "question": "What?"},
        "no row",
        {**good, "question_id": 8, "image_id": None},
        {**good, "question_id": 9},
    ]
    said = [{"answer": "x"}, {"answer": ""}]
    annotations = [{"question_id": k, "answers": said} for k in (1, 2, 3, 4, 5, 8, 99)]
    annotations += [{"question_id": 6, "answers": said[1:]}, {"question_id": 7, "answers": "x"}, {"answers": said}, 3]
    write(tmp_path / "OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write(tmp_path / "mscoco_val2014_annotations.json", {"annotations": annotations})
    found = list(RELEASES["okvqa"].splits(tmp_path, ())["val"]())
    assert [row.record.question_id for row in found if isinstance(row, Draft)] == [1]
    file = "OpenEnded_mscoco_val2014_questions.json"
    assert skips(found) == [
        ("mscoco_val2014_annotations.json:[9]", "missing field"),
        ("mscoco_val2014_annotations.json:[10]", "wrong type"),
        (f"{file}:[1]", "wrong type"),
        (f"{file}:[2]", "wrong type"),
        (f"{file}:[3]", "lone surrogate"),
        (f"{file}:[4]", "empty question"),
        (f"{file}:[5]", "empty answer"),
        (f"{file}:[6]", "wrong type"),
        (f"{file}:[7]", "missing field"),
        (f"{file}:[8]", "not an object"),
        (f"{file}:[9]", "wrong type"),
        (f"{file}:[10]", "no annotation"),
        ("mscoco_val2014_annotations.json:99", "no such question"),
    ]


def test_a_shard_of_unusable_samples(tmp_path):
    import io
    import tarfile

    path = tmp_path / "00001.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("a.txt", b"no picture"),
            ("b.jpg", b"x"),
            ("c.jpg", b""),
            ("c.txt", b"empty picture"),
            ("d.jpg", b"xyz"),
            ("d.txt", b"caf\xe9"),
            ("e.png", b"xyz"),
            ("e.json", b'{"caption": "of its json"}'),
            ("f/e.webp", b"xyz"),
            ("f/e.txt", b"another folder"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found = list(RELEASES["capfilt"].splits(tmp_path, ())["train"]())
    assert skips(found) == [
        ("00001.tar:a", "no picture in the sample"),
        ("00001.tar:b", "missing field"),
        ("00001.tar:c", "no picture in the sample"),
        ("00001.tar:d", "broken caption"),
    ]
    drafts = [row for row in found if isinstance(row, Draft)]
    assert [row.record.answers for row in drafts] == [("of its json",), ("another folder",)]
    assert [row.record.uid for row in drafts] == ["capfilt/train/00001/e", "capfilt/train/00001/f/e"]
    assert all(row.media == (Media(path, row.media[0].offset, 3),) for row in drafts)
    data = path.read_bytes()
    path.write_bytes(data[: 512 * 3 + 100])
    with pytest.raises(ValueError, match=r"00001\.tar: not a complete tar"):
        list(RELEASES["capfilt"].splits(tmp_path, ())["train"]())
