"""Formats of other projects, compared value by value."""

import json

import pytest
from own_files import drafts, json_file, json_lines, only, picture, read, reasons, rows

from instructblip_jax.datasets.draft import Media


@pytest.fixture
def folder(tmp_path):
    """With pictures in pics/."""
    for number in range(3):
        picture(tmp_path / "pics" / f"{number}.png", 50 * number)
    return tmp_path


def conversation(*texts: str, ask="human", answer="gpt") -> list[dict]:
    return [{"from": (ask, answer)[n % 2], "value": text} for n, text in enumerate(texts)]


def test_llava_conversations(folder):
    given = [
        {
            "id": "u0",
            "image": "0.png",
            "conversations": conversation("<image>\nName the box.", "A red box."),
            "model": "m",
        },
        {
            "id": "u1",
            "image": ["0.png", "1.png"],
            "conversations": conversation("What is it?\n<image><image>", "A box.", "Open?", "No."),
        },
        {"id": "u2", "conversations": conversation("Say hello.", "Hello.", ask="user", answer="assistant")},
    ]
    one, two, three = drafts(json_file(folder / "llava.json", given), folder / "pics")
    assert one.record.turns == (("Name the box.", "A red box."),)
    assert (one.record.uid, one.record.task, one.record.answers) == ("own/train/u0", "dialog", ())
    assert (one.record.meta, one.media) == ({"model": "m"}, (Media(path=folder / "pics" / "0.png"),))
    assert two.record.turns == (("What is it?", "A box."), ("Open?", "No."))
    assert len(two.media) == 2
    assert (three.media, three.record.turns) == ((), (("Say hello.", "Hello."),))
    json_lines(folder / "llava.jsonl", *given)
    assert [draft.record for draft in drafts(folder / "llava.jsonl", folder / "pics")] == [
        draft.record for draft in (one, two, three)
    ]


def test_messages_with_contents(folder):
    content = [{"type": "image", "image": "pics/1.png"}, {"type": "text", "text": "What is it?"}]
    given = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "Ask me."},
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": "A box."}]},
            {"role": "user", "content": "Sure?"},
            {"role": "user", "content": "Really?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Thanks."},
        ]
    }
    draft = only(json_file(folder / "messages.json", [given]))
    assert draft.record.turns == (("What is it?", "A box."), ("Sure?\nReally?", "Yes."))
    assert draft.record.meta == {"system": "Be brief."}
    assert draft.media == (Media(path=folder / "pics" / "1.png"),)
    listed = {
        "images": ["pics/0.png"],
        "messages": [{"role": "user", "content": "<image>Who?"}, {"role": "assistant", "content": "I."}],
    }
    draft = only(json_file(folder / "messages.json", [listed]))
    assert (draft.record.turns, draft.media) == ((("Who?", "I."),), (Media(path=folder / "pics" / "0.png"),))


def test_unusable_conversations(folder):
    bad = [
        [],
        "hello",
        [3],
        conversation("Only a question?"),
        conversation("What?", " "),
        conversation(" <image>", "A box."),
        [{"from": "robot", "value": "x"}],
        [{"role": "user", "content": [{"type": "audio"}]}],
        [{"role": "user", "content": {"a": 1}}],
        conversation("<image>Who?", "I."),
    ]
    rows = [{"conversations": conversation("A?", "B.")}, *({"conversations": turns} for turns in bad)]
    assert reasons(json_lines(folder / "talk.jsonl", *rows)) == [
        None,
        "empty answer",
        "no conversation",
        "no conversation",
        "empty answer",
        "empty answer",
        "blank instruction",
        "unknown speaker",
        "unknown part of a message",
        "message is not text",
        "pictures and <image> differ in number",
    ]
    pictured = [
        {"image": image, "conversations": conversation(*texts)}
        for image, texts in (
            ("0.png", ("Who?", "I.")),  # pictures stand first where nothing marks them
            (["0.png", "1.png"], ("<image>Who?", "I.", "And <image>?", "She.")),
            (["0.png", "1.png"], ("<image>Who?", "I <image>.")),
            ("0.png", ("<image>Who?", "I.", "<image>And?", "She.")),
        )
    ]
    assert reasons(json_lines(folder / "talk.jsonl", *pictured), folder / "pics") == [
        None,
        None,
        *["pictures and <image> differ in number"] * 2,
    ]
    with pytest.raises(ValueError, match="conversations and messages both mean"):
        read(json_lines(folder / "talk.jsonl", {"conversations": conversation("A?", "B."), "messages": []}))


COCO = {
    "info": {"year": 2014},
    "images": [{"id": 7, "file_name": "0.png"}, {"id": 8, "file_name": "1.png"}, {"id": 9}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A box."},
        {"id": 2, "image_id": 7, "caption": "One box."},
        {"id": 3, "image_id": 8, "caption": "A drum."},
        {"id": 4, "image_id": 99, "caption": "Lost."},
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_coco_captions_in_training_and_evaluation(folder, indent):
    for name in ("captions.json", "captions_val2014.json"):
        (folder / name).write_text(json.dumps(COCO, indent=indent))
    train = rows(folder / "captions.json", folder / "pics")
    assert [row.reason for row in train if not hasattr(row, "record")] == ["no id or file_name", "no such image id"]
    drafts = [row for row in train if hasattr(row, "record")]
    assert [draft.record.answers for draft in drafts] == [("A box.",), ("One box.",), ("A drum.",)]
    assert [draft.record.image_id for draft in drafts] == [7, 7, 8]
    assert drafts[2].record.uid == "own/train/3"
    assert (drafts[2].record.task, drafts[2].media) == ("caption", (Media(path=folder / "pics" / "1.png"),))
    judged = read(folder / "captions_val2014.json", folder / "pics")["validation"]
    judged = [row.record for row in judged if hasattr(row, "record")]
    assert [(record.uid, record.references) for record in judged] == [
        ("own/validation/7", ("A box.", "One box.")),
        ("own/validation/8", ()),
    ]


def vqa_pair(folder, questions: str, annotations: str) -> None:
    asked = [{"image_id": n, "question": f"What is {n}?", "question_id": 10 + n} for n in range(3)]
    entries = [
        {
            "image_id": n,
            "question_id": 10 + n,
            "question_type": "what",
            "answers": [{"answer": text, "answer_id": k} for k, text in enumerate(("box", "block", "box"))],
        }
        for n in (2, 0)
    ]
    json_file(folder / questions, {"data_subtype": "train2014", "questions": asked})
    json_file(folder / annotations, {"info": {}, "annotations": entries})


@pytest.mark.parametrize(
    "source", ["v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json", "."]
)
def test_vqa_pairs_from_either_file(folder, source):
    picture(folder / "pics" / "COCO_train2014_000000000000.jpg")
    vqa_pair(folder, "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json")
    vqa_pair(folder / "other", "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")
    first, second, third = rows(folder / source, folder / "pics")
    record = first.record
    assert (record.uid, record.instruction) == ("own/train/10", "What is 0?")
    assert (record.answers, record.weights) == (("box", "block"), (2 / 3, 1 / 3))
    assert record.references == ("box", "block", "box")
    assert (record.image_id, record.question_id, record.meta) == (0, 10, {"question_type": "what"})
    assert first.media == (Media(path=folder / "pics" / "COCO_train2014_000000000000.jpg"),)
    assert second.reason == "empty answer"
    assert third.media == (Media(path=folder / "pics" / "2.png"),)


def test_an_incomplete_vqa_pair_is_reported(folder):
    vqa_pair(folder, "questions.json", "annotations.json")
    (folder / "annotations.json").rename(folder / "a_annotations.json")
    (folder / "b_annotations.json").write_text((folder / "a_annotations.json").read_text())
    with pytest.raises(ValueError, match=r"questions\.json: several files of annotations match: a_ann.*, b_ann"):
        read(folder / "questions.json", folder / "pics")
    (folder / "questions.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"a_annotations\.json: .*no file of questions"):
        read(folder / "a_annotations.json")


def test_lavis_lists(folder):
    given = [
        {"question_id": 5, "image": "pics/0.png", "question": "How many?", "answer": ["1", "one", "1"], "dataset": "vg"}
    ]
    record = only(json_file(folder / "vqa_train.json", given)).record
    assert (record.uid, record.answers, record.meta) == ("own/train/5", ("1", "one"), {"dataset": "vg"})
    given = [{"image": "pics/0.png", "caption": "A box.", "image_id": "coco_3"}]
    record = only(json_file(folder / "captions_train.json", given)).record
    assert (record.task, record.answers, record.image_id) == ("caption", ("A box.",), "coco_3")


def test_pictures_beside_metadata(folder):
    root = folder / "set"
    for split in ("train", "test"):
        picture(root / split / "0.png")
        picture(root / split / "1.png")
    json_lines(
        root / "train" / "metadata.jsonl",
        {"file_name": "0.png", "text": "A box."},
        {"file_name": "1.png", "label": "drum"},
    )
    (root / "test" / "metadata.csv").write_text(
        "left_file_name,right_file_name,question,answer\n0.png,1.png,Same?,no\n"
    )
    found = read(root)
    caption, label = (row.record for row in found["train"])
    assert (caption.task, caption.answers, caption.uid) == ("caption", ("A box.",), "own/train/1")
    assert (label.task, label.answers, label.instruction) == ("choice", ("drum",), "What is in the picture?")
    (pair,) = found["test"]
    assert [media.path.name for media in pair.media] == ["0.png", "1.png"]
    assert pair.record.instruction == "Same?"
    assert only(root / "test").record == pair.record
    json_lines(root / "train" / "metadata.jsonl", {"file_names": ["0.png", "1.png"], "caption": "Two.", "label": 1})
    draft = read(root)["train"][0]
    assert (len(draft.media), draft.record.answers, draft.record.meta) == (2, ("Two.",), {"label": 1})
    json_lines(root / "train" / "metadata.jsonl", {"file_name": "0.png", "image": "1.png", "text": "x"})
    with pytest.raises(ValueError, match="image and file_name both mean the image"):
        read(root)


def test_one_folder_per_class(folder):
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            picture(folder / "set" / split / kind / "a b.PNG")
    (folder / "set" / "train" / "cat" / "notes.doc").write_text("no picture")
    found = read(folder / "set")
    assert list(found) == ["train", "validation"]
    cat, dog = (row.record for row in found["train"])
    assert (cat.answers, cat.candidates, cat.label, cat.task) == (("cat",), ("cat", "dog"), 0, "choice")
    assert (dog.uid, dog.label) == ("own/train/train/dog/a b", 1)
    assert found["train"][0].media == (Media(path=folder / "set" / "train" / "cat" / "a b.PNG"),)


def test_one_text_per_picture(folder):
    (folder / "pics" / "0.txt").write_text("A box on a shelf.\n")
    (folder / "pics" / "1.txt").write_text(" \n")
    (folder / "pics" / "x.txt").write_text("Nobody's.")
    found = rows(folder / "pics")
    assert found[0].record.answers == ("A box on a shelf.",)
    assert (found[0].record.uid, found[0].record.task) == ("own/train/0", "caption")
    assert [row.reason for row in found[1:]] == [
        "empty answer",
        "no text beside the picture",
        "no picture beside the text",
    ]


def test_a_folder_of_files_and_one_of_nothing(folder):
    for split in ("train", "validation", "test"):
        json_lines(folder / f"{split}.jsonl", {"image": "pics/0.png", "answer": split})
    assert {split: found[0].record.answers for split, found in read(folder).items()} == {
        split: (split,) for split in ("train", "validation", "test")
    }
    (folder / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match=r"nothing: nothing to read: no \.jsonl, "):
        read(folder / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing: no metadata"):
        read(folder / "nothing", format="imagefolder")


def test_nothing_opens_a_picture(folder):
    """Readers do not open pictures; the shard writer finds those that are broken."""
    (folder / "pics" / "0.png").write_bytes(b"<html>")
    given = [{"image": name, "answer": "x"} for name in ("pics/0.png", "gone.png")]
    assert reasons(json_lines(folder / "a.jsonl", *given)) == [None, None]
