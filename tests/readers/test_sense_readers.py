"""X-InstructBLIP's sets, compared with their raw files, with the traps that the real ones have."""

import csv
import os
import pickle
from collections import Counter

import pytest
from drawing import raw, rows, skips
from fixtures.senses import IDS, UIDS, put_csv
from fixtures.writing import put, put_json

from instructblip_jax.datasets.draft import Draft
from instructblip_jax.datasets.readers import audioset, cap3d, music_avqa
from instructblip_jax.datasets.readers.csv_files import table
from instructblip_jax.datasets.readers.fields import BadRow
from instructblip_jax.datasets.readers.releases import RELEASES


def records(name, world, split):
    """Records and the paths of their media below the world; nothing is skipped, and every file is there."""
    found = rows(name, world, split)
    assert all(isinstance(row, Draft) for row in found), skips(found)
    assert all(media.path.is_file() for row in found for media in row.media)
    return [(row.record, [str(media.path.relative_to(world)) for media in row.media]) for row in found]


def cells(path, encoding="utf-8"):
    with path.open(encoding=encoding, newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_keeps_texts_as_they_are(tmp_path):
    put(tmp_path / "t.csv", b'\xef\xbb\xbfa,b\r\n007,None\r\n\r\n"x, ""y""",nan\r\n1,2,3\r\n')
    found = [row for _, row in table(tmp_path / "t.csv")]
    assert found[:2] == [{"a": "007", "b": "None"}, {"a": 'x, "y"', "b": "nan"}]
    assert isinstance(found[2], BadRow)
    put(tmp_path / "open.csv", 'a,b\n1,"' + "x" * 200_000)
    with pytest.raises(ValueError, match=r"open\.csv:2: .*; a quote above it is not closed"):
        list(table(tmp_path / "open.csv"))


def test_audiocaps_has_one_record_for_a_caption_or_for_a_clip(world):
    told = cells(world / "audiocaps/train.csv")
    found = records("audiocaps", world, "train")
    assert [record.answers for record, _ in found] == [(row["caption"],) for row in told]
    files = [path.rsplit("/", 1)[-1] for _, [path] in found]
    assert files == [f"{IDS[0]}_30.wav", f"Y{IDS[1]}.wav", f"{IDS[2]}.wav", f"{IDS[3]}_30000.wav"]
    held = Counter(row["youtube_id"] for row in cells(world / "audiocaps/test.csv"))
    for record, _ in records("audiocaps", world, "test"):
        assert len(record.references) == 5 == held[record.meta["youtube_id"]]
        assert record.image_id == f"{record.meta['youtube_id']}_30"
    [media] = rows("audiocaps", world, "val")[0].media
    assert (media.kind, media.start, media.end) == ("audio", 30.0, 40.0)


def test_made_questions_and_those_about_captions(tmp_path):
    made = [[str(n), IDS[0], "0", f"Sound {n}.", "What??", f"Answer {n}"] for n in range(4000)]
    head = ["audiocap_id", "youtube_id", "start_time", "caption", "question", "answer", "correct"]
    put_csv(tmp_path / "audiocaps/train_qa.csv", [head, *[[*row, "True"] for row in made], [*made[0], "False"]])
    found = rows("audiocaps_qa", tmp_path, "train")
    assert skips(found) == [("train_qa.csv:4002", "the answer was not found again in the caption")]
    asked = [row.record for row in found if isinstance(row, Draft)]
    plain = [record for record in asked if record.slots["question"] == "what?"]
    assert [record.answers for record in plain] == [(f"answer {n}",) for n in range(4000)]
    others = [record for record in asked if record.slots["question"] != "what?"]
    assert len(others) / len(asked) == pytest.approx(3 / 11, abs=0.01)
    assert sum(record.answers == ("yes",) for record in others) / len(others) == pytest.approx(5 / 11, abs=0.03)
    for record in others:
        own = f"sound {record.question_id}?"
        assert record.slots["question"].endswith(own) == (record.answers == ("yes",))
    assert sum(row.rows for row in found) == 4001


def test_clotho_strips_nothing_from_a_name(world):
    told = {row["file_name"]: row for row in cells(world / "clotho/clotho_captions_evaluation.csv")}
    found = records("clotho", world, "test")
    assert [record.image_id for record, _ in found] == ["Bob's 2nd  bell .wav", "rain.on.tin.wav", "Café_1.wav"]
    for record, [path] in found:
        assert path == f"clotho/evaluation/{record.image_id}"
        assert record.references == tuple(told[record.image_id][f"caption_{n}"] for n in range(1, 6))
    assert len(records("clotho", world, "train")) == 15


def test_three_rows_wherever_they_are_make_a_question(world):
    found = records("clotho_aqa", world, "test")  # its table is Latin-1
    assert [(record.image_id, record.slots["question"], record.references) for record, _ in found] == [
        ("Bob's 2nd  bell .wav", "Is it a bell?", ("yes", "yes", "no")),
        ("Bob's 2nd  bell .wav", "What is it?", ("bell", "bell", "bell")),
        ("Café_1.wav", "Is it a bell?", ("no", "no", "no")),
    ]
    assert [record.meta["answer_type"] for record, _ in found] == [
        ["divided", "yes or no", "divided, yes or no"],
        ["unanimous", "one word", "unanimous, one word"],
        ["unanimous", "yes or no", "unanimous, yes or no"],
    ]


def test_classes_are_words(world, tmp_path):
    (dog, _), (cleaner, [path]), _ = records("esc50", world, "test")
    assert dog.candidates == ("dog", "rooster", "vacuum cleaner") == cleaner.candidates
    assert (cleaner.answers, cleaner.label, cleaner.meta["domain"]) == (("vacuum cleaner",), 2, "fold 2")
    assert path == "esc50/audio/2-007-B-36.wav"
    pot, plane, stand = (record for record, _ in records("modelnet40", world, "test"))
    assert [record.answers[0] for record in (pot, plane, stand)] == ["flower pot", "airplane", "night stand"]
    assert (pot.label, pot.candidates) == (1, ("airplane", "flower pot", "night stand"))
    for name in ("night_stand/test/night_stand_0201.off", "desk/train/desk_0001.off"):
        put(tmp_path / "mesh" / name, "OFF490 518 0\n")
    [draft] = RELEASES["modelnet40"].splits(tmp_path / "mesh", ())["test"]()
    assert (draft.record.answers, draft.record.candidates) == (("night stand",), ("desk", "night stand"))
    assert draft.media[0].kind == "points"
    put(tmp_path / "dat/modelnet40_test_8192pts_fps.dat", b"\x80")
    with pytest.raises(FileNotFoundError, match=r"modelnet40_\{train,test\}\.txt"):
        RELEASES["modelnet40"].splits(tmp_path / "dat", ())


def test_wavcaps_leaves_out_what_lists_name(world):
    ids = {split: {r.image_id for r, _ in records("wavcaps", world, split)} for split in ("train", "train_zero_shot")}
    assert ids["train"] - ids["train_zero_shot"] == {
        f"AudioSet_SL/Y{IDS[0]}",
        f"AudioSet_SL/Y{IDS[1]}",
        "FreeSound/77",
    }
    assert "FreeSound/0123" in ids["train_zero_shot"]


def test_audiosets_labels_are_said(world):
    both, one = (record for record, _ in records("audioset", world, "train"))
    assert both.references == ("Speech", "Child speech, kid")
    assert len(both.answers) == 12
    assert "this is the sound of a speech" in both.answers
    assert records("audioset", world, "test")[1][0].answers == ("Speech",)
    assert audioset.said("Owl")[1] == "this is an owl"
    assert one.image_id == f"{IDS[1]}_0"


def test_cap3d_and_its_lists(world, tmp_path):
    told = dict(csv.reader((world / "cap3d/Cap3D_automated_Objaverse_full.csv").open(newline="")))
    for split, own in (("train", UIDS[:3]), ("val", UIDS[3:])):
        found = records("cap3d", world, split)
        assert [record.image_id for record, _ in found] == list(own)
        assert all(record.answers == (told[record.image_id],) for record, _ in found)
    answers = [row.record.answers[0] for row in rows("cap3d_qa", world, "train") if isinstance(row, Draft)]
    assert "a 3d model" not in answers
    assert "a chair" in answers
    # A caption that is a text is one caption, and an object of uid -> captions is read too.
    put_json(tmp_path / "train.json", [{"sample_id": UIDS[0], "data": "A mug."}])
    put_json(tmp_path / "val.json", {UIDS[0]: ["A mug.", "A cup."]})
    splits = RELEASES["cap3d"].splits(tmp_path, ())
    assert [row.record.answers for row in splits["train"]()] == [("A mug.",)]
    assert [row.record.references for row in splits["val"]()] == [("A mug.", "A cup.")]


class _Hostile:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_hostile_pickle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pkl: is no pickled list of texts: it holds a \w+\.system"):
        cap3d.uids(put(tmp_path / "a.pkl", pickle.dumps([_Hostile()])))
    with pytest.raises(ValueError, match="is no pickled list of texts"):
        cap3d.uids(put(tmp_path / "b.pkl", pickle.dumps([1, 2])))
    assert cap3d.uids(put(tmp_path / "c.pkl", pickle.dumps(["x"]))) == {"x"}


def test_all_slots_of_a_question_are_filled(world):
    found = records("music_avqa", world, "test")
    assert [record.slots["question"] for record, _ in found] == [
        "How many sounding violin in the video?",
        "Is the flute on the left louder than the flute?",
        "What is it?",
    ]
    assert [record.image_id for record, _ in found] == ["00000090", "00000091", "00000092"]
    assert found[1][0].meta["answer_type"] == ["Audio-Visual", "Audio-Visual Location"]
    kinds = {
        s: [media.kind for media in rows("music_avqa", world, f"test{s}")[0].media] for s in ("", "_audio", "_video")
    }
    assert kinds == {"": ["video", "audio"], "_audio": ["audio"], "_video": ["video"]}
    with pytest.raises(BadRow, match="slots and values differ in number"):
        music_avqa.filled("Is <Object> on the <LR>?", ["flute"])
    with pytest.raises(BadRow, match="wrong type"):
        music_avqa.listed("__import__('os')", "templ_values")


def test_videos_with_captions(world):
    told = raw(world / "msrvtt_caption/videodatainfo_2016.json")["sentences"]
    [(record, [path])] = records("msrvtt_caption", world, "test")
    assert path == "msrvtt_caption/TestVideo/video3.mp4"
    assert record.references == tuple(row["caption"] for row in told if row["video_id"] == "video3")
    by_split = {
        split: sorted({record.image_id for record, _ in records("msvd_caption", world, split)})
        for split in ("train", "val", "test")
    }
    clips = [f"{own}_3_9" for own in IDS]
    assert by_split == {"train": clips[:1], "val": sorted(clips[1:3]), "test": clips[3:]}
    kinds = {s: [media.kind for media in rows("vatex", world, f"val{s}")[0].media] for s in ("", "_joint", "_audio")}
    assert kinds == {"": ["video"], "_joint": ["video", "audio"], "_audio": ["audio"]}
    assert [record.answers for record, _ in records("webvid", world, "train")] == [("NA",), ("A, b",)]
    assert records("webvid", world, "train")[0][0].image_id == "0012"


@pytest.mark.parametrize(("name", "ids"), [("discrn_av", IDS), ("discrn_i3d", UIDS)])
def test_discrn_exchanges_everything_together(world, name, ids):
    """Rows 0, 1, 2 have the labels 0, 1, 1: labels of "val" are 1, 0, 1, so the first two rows are turned."""
    found, swapped = (records(name, world, split) for split in ("val", "val_swapped"))
    assert [record.label for record, _ in found] == [1, 0, 1]
    assert [record.label for record, _ in swapped] == [0, 1, 0]
    for n, (turned, ((one, paths), (other, opposite))) in enumerate(
        zip((True, True, False), zip(found, swapped, strict=True), strict=True)
    ):
        first, second = (ids[n + 1], ids[n]) if turned else (ids[n], ids[n + 1])
        assert first in paths[0]
        assert second in paths[1]
        assert second in opposite[0]
        assert first in opposite[1]
        want = [f"c{n}", f"d{n}"]
        assert one.meta["captions"] == (want[::-1] if turned else want)
        assert other.meta["captions"] == one.meta["captions"][::-1]
        assert one.answers == (("first", "second")[one.label],)
        assert one.slots == other.slots
    assert found[0][0].slots["question"] == "which of the two options is louder?"
    kinds = [media.kind for media in rows(name, world, "val")[0].media]
    assert kinds == (["audio", "video"] if name == "discrn_av" else ["image", "points"])
