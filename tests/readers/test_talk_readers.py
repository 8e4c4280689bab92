"""Conversations and questions about videos, compared field by field with their raw files."""

import csv
import json
import zipfile

import pytest
from drawing import raw, rows, skips, tally, under
from fixtures.talk import FILES, MIXED, said

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media
from instructblip_jax.datasets.readers import zips
from instructblip_jax.datasets.readers.releases import RELEASES


def videos(name, world, split):
    found = rows(name, world, split)
    return [(row.record, [under(world, media, kind="video") for media in row.media]) for row in found]


@pytest.mark.parametrize("name", FILES)
def test_llava(world, name):
    want, seen = [], []
    for row in raw(world / "llava" / FILES[name]):
        texts = [turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
        again = seen.count(row["id"])
        seen.append(row["id"])
        record = Record(
            uid=f"{name}/train/{row['id']}" + (f"#{again}" if again else ""),
            dataset=name,
            split="train",
            task="dialog" if name == "llava_conv" else "open",
            media=(),
            slots={},
            answers=(),
            turns=tuple(zip(texts[::2], texts[1::2], strict=True)),
            image_id=row["id"],
            question_id=row["id"],
        )
        want.append((record, f"coco/train2017/{row['image']}"))
    found = rows(name, world, "train")
    assert [(row.record, under(world, *row.media)) for row in found] == want
    assert [len(record.turns) for record, _ in want] == [2 if name == "llava_conv" else 1] * 4
    assert want[3][0].uid.endswith("#1")
    if name == "llava_conv":
        assert want[0][0].turns[1][0] == "Line one.\nLine two?"


WHOLE = {
    "llava_instruct_150k": ("llava/llava_instruct_150k.json", "dialog", "coco/train2017/"),
    "llava_cc3m_595k": ("llava_cc3m_595k/chat.json", "open", "llava_cc3m_595k/images/"),
    "llava_lcs_558k": ("llava_lcs_558k/blip_laion_cc_sbu_558k.json", "open", "llava_lcs_558k/images/"),
    "llava_v1_5_mix665k": ("llava_v1_5_mix665k/llava_v1_5_mix665k.json", "dialog", "llava_v1_5_mix665k/"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_sets_of_whole_conversations(world, name):
    file, task, folder = WHOLE[name]
    want, seen = [], []
    for row in raw(world / file):
        texts = [turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
        texts = [text.replace("?\n\nAnswer", "?\nAnswer") for text in texts]
        again = seen.count(row["id"])
        seen.append(row["id"])
        image = row.get("image")
        record = Record(
            uid=f"{name}/train/{row['id']}" + (f"#{again}" if again else ""),
            dataset=name,
            split="train",
            task=task,
            media=(),
            slots={},
            answers=(),
            turns=tuple(zip(texts[::2], texts[1::2], strict=True)),
            image_id=image and image.rsplit("/", 1)[-1].removesuffix(".jpg"),
            question_id=row["id"],
        )
        want.append((record, [folder + MIXED.get(image, image)] if image else []))
    found = rows(name, world, "train")
    assert [(row.record, [under(world, media) for media in row.media]) for row in found] == want
    assert all(media.path.is_file() for row in found for media in row.media)
    assert any("#" in row.record.uid for row in found) == (task == "dialog")


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "llava_instruct_150k"])
def test_conversations_that_cannot_be_trained_on(tmp_path, name):
    """Each is counted by one of few phrases; an answer before any question is left out of its conversation."""
    leading = [{"from": "gpt", "value": "Ask me."}, *said("<image>\nWhat?", "A box.")]
    bad = {
        "turns out of order": [said("<image>a", "b", "c"), [*said("<image>a", "b"), *leading[:1]], leading[:1] * 2],
        "pictures and <image> differ in number": [
            said("What?", "A box."),
            said("<image><image>\nWhat?", "A box."),
            said("What?", "A box.", "<image>And that?", "A drum."),
            said("<image>What?", "A box.", "<image>And that?", "A drum."),
        ],
        "empty answer": [said("<image>a", " "), [], leading[:1]],
        "empty question": [said("<image>", "b"), said("<image>a", "b", "", "d")],
    }
    listed = [{"id": "0", "image": "a.jpg", "conversations": leading}]
    listed += [{"id": "1", "image": "a.jpg", "conversations": turns} for group in bad.values() for turns in group]
    listed += [{"id": "2", "conversations": said("<image>What?", "A box.")}, {"id": "3", "image": ["a.jpg"]}]
    source = tmp_path / WHOLE[name][0]
    source.parent.mkdir()
    source.write_text(json.dumps(listed))
    found = list(RELEASES[name].splits(source, ())["train"]())
    (draft,) = (row for row in found if isinstance(row, Draft))
    assert draft.record.turns == (("What?", "A box."),)
    assert draft.notes == ("answer before any question left out",)
    reasons = [reason for reason, group in bad.items() for _ in group]
    assert [reason for _, reason in skips(found)] == [*reasons, "pictures and <image> differ in number", "wrong type"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("name", ["llava_cc3m_595k", "llava_lcs_558k"])
def test_pictures_may_still_be_in_their_archive(world, tmp_path, name, method):
    """In place if they are not compressed. One that is a file already is taken as it is."""
    wanted, file = rows(name, world, "train"), WHOLE[name][0]
    source = tmp_path / name
    source.mkdir()
    (source / file.rsplit("/", 1)[1]).write_bytes((world / file).read_bytes())
    contents = {}
    with zipfile.ZipFile(source / "images.zip", "w", method) as archive:
        archive.mkdir("images")
        for n, row in enumerate(wanted):
            inside = row.media[0].path.relative_to(world / name / ("images" if n else "")).as_posix()
            contents[row.record.uid] = f"the picture {n} in full".encode()
            archive.writestr(inside, contents[row.record.uid])
    found = rows(name, tmp_path, "train")
    if method == zipfile.ZIP_BZIP2:
        assert [reason for _, reason in skips(found)] == ["broken archive member"] * len(wanted)
        return
    assert [row.record for row in found] == [row.record for row in wanted]
    read = {}
    for row in found:
        (one,) = row.media
        read[row.record.uid] = one.data or one.path.read_bytes()[one.offset : one.offset + one.size]
    assert read == contents
    assert all((media.path is not None) == (method == zipfile.ZIP_STORED) for row in found for media in row.media)
    beside = source / wanted[0].media[0].path.relative_to(world / name)
    beside.parent.mkdir(parents=True)
    beside.write_bytes(b"a file")
    assert rows(name, tmp_path, "train")[0].media == (Media(beside),)
    (source / "images.zip").write_bytes(b"PK\x03\x04 cut off")
    zips._members.cache_clear()
    with pytest.raises(ValueError, match=r"images\.zip: not a complete ZIP archive"):
        rows(name, tmp_path, "train")


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("name", ["msvd_qa", "msrvtt_qa"])
def test_video_questions(world, name, split):
    clips = {}
    for line in (world / "msvd_qa/youtube_mapping.txt").read_text().splitlines():
        for number in range(20):
            if f"vid{number}" in line.split():
                clips[number] = line.replace(f"vid{number}", "").strip()
    want = []
    for row in raw(world / name / f"{split}_qa.json"):
        if name == "msrvtt_qa":
            file = f"msrvtt_qa/{'TestVideo' if split == 'test' else 'TrainValVideo'}/video{row['video_id']}.mp4"
        else:
            file = f"msvd_qa/YouTubeClips/{clips[row['video_id']]}.avi"
            if split == "val":  # only its frames are there
                file = f"msvd_qa/frames/vid{row['video_id']}"
        record = Record(
            uid=f"{name}/{split}/{row['id']}",
            dataset=name,
            split=split,
            task="vqa",
            media=(),
            slots={"question": row["question"]},
            image_id=row["video_id"],
            question_id=row["id"],
            meta={"category_id": 14} if name == "msrvtt_qa" else {},
            **tally([row["answer"]]),
        )
        want.append((record, [file]))
    got = videos(name, world, split)
    assert got == want
    assert all((world / file).exists() for _, (file,) in got)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_ivqa(world, split):
    want = []
    with (world / f"ivqa/{split}.csv").open(encoding="utf-8-sig", newline="") as file:
        for k, row in enumerate(csv.DictReader(file)):
            clip = row["video_id"]
            record = Record(
                uid=f"ivqa/{split}/{clip}_{row['start']}_{row['end']}",
                dataset="ivqa",
                split=split,
                task="vqa",
                media=(),
                slots={"question": row["question"]},
                image_id=clip,
                meta={"start": float(10 * k), "end": float(10 * k + 10)},
                **tally([row[f"answer{n}"] for n in range(1, 6)]),
            )
            name = (f"{clip}.mp4", f"{clip}_10_20.webm", f"{clip}.gif")[k]
            want.append((record, [f"ivqa/video/{name}"]))
    got = videos("ivqa", world, split)
    assert got == want
    assert all((world / file).is_file() for _, (file,) in got)
    assert got[0][0].image_id.startswith("-")
    assert got[0][0].slots["question"] == 'What is it, "0"?'


def test_vocabularies(world, tmp_path):
    """The training answers, most common first, and for iVQA those that occur twice; a file of answers comes first."""
    for name in ("msvd_qa", "msrvtt_qa"):
        said = [row["answer"] for row in raw(world / name / "train_qa.json")]
        want = sorted(set(said), key=lambda answer: (-said.count(answer), said.index(answer)))
        assert RELEASES[name].vocabulary(world / name) == want
    assert RELEASES["ivqa"].vocabulary(world / "ivqa") == ["knife", "spoon", "flour"]
    (tmp_path / "vocab.json").write_text('{"b": 1, "c": 2, "a": 0}')
    assert RELEASES["ivqa"].vocabulary(tmp_path) == ["a", "b", "c"]
    (tmp_path / "lavis").mkdir()
    (tmp_path / "lavis/train_ans2label.json").write_text('{"x": 1, "y": 0}')
    assert RELEASES["msvd_qa"].vocabulary(tmp_path) == ["y", "x"]
    (tmp_path / "train_qa.json").write_text(
        "[" + ",".join(f'{{"answer": "a{n % 5000}"}}' for n in range(5002)) + ',{"answer": ""},{"answer": null}]'
    )
    (tmp_path / "lavis/train_ans2label.json").unlink()
    found = RELEASES["msrvtt_qa"].vocabulary(tmp_path)
    assert len(found) == 4000
    assert found[:3] == ["a0", "a1", "a2"]
    for name in ("msvd_qa", "ivqa"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            RELEASES[name].vocabulary(tmp_path / "nowhere")
