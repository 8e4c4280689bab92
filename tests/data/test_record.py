"""A record as text and back."""

import dataclasses
import json

import pytest

from instructblip_jax.data.record import Medium, Record

PLAIN = Record("set/train/0", "set", "train", "vqa", (Medium("image", b"\x89PNG\x00\xff"),), {}, ("yes",))
FULL = Record(
    uid="größe/test/7",
    dataset="größe",
    split="test",
    task="mc",
    media=(Medium("image", bytes(range(256))), Medium("audio", b"")),
    slots={"question": 'was ist das?\n"zitiert" {nicht ein feld} 数字 😀', "leer": ""},
    answers=("ja", "doch", ""),
    instruction="Sag es: \u2028",
    weights=(0.5, 0.3, 0.2),
    references=("ja", "ja", ""),
    candidates=("ja", "nein"),
    label=0,
    relevance=(1.0, 0.4),
    turns=(("wer?", "ich"), ("wo?", "hier")),
    image_id="00ff",
    question_id=17,
    meta={"number": 3, "share": 0.1, "none": None, "true": True},
    parts=("sieh ", 0, " und hör", 1),
)


@pytest.mark.parametrize("record", [PLAIN, FULL], ids=["plain", "full"])
def test_the_round_trip_is_exact(record):
    text = record.to_json()
    assert "\n" not in text
    data = [medium.data for medium in record.media]
    back = Record.from_json(text, data)
    assert back == record
    assert Record.from_json(text.encode(), data) == record
    assert isinstance(back.answers, tuple)
    assert isinstance(back.candidates, tuple)
    assert isinstance(back.parts, tuple)
    with pytest.raises(ValueError, match="zip"):
        Record.from_json(text, data[:-1])


def test_records_of_the_older_version_hold_pictures():
    text = json.dumps({name: value for name, value in json.loads(FULL.to_json()).items() if name != "kinds"})
    back = Record.from_json(text, [b"a", b"b", b"c"])
    assert back.media == (Medium("image", b"a"), Medium("image", b"b"), Medium("image", b"c"))
    assert back.images == (b"a", b"b", b"c")


def test_what_a_record_shows():
    assert FULL.kinds == ("image", "audio")
    assert FULL.images == (bytes(range(256)),)
    assert dataclasses.replace(FULL, media=()).kinds == ("image",)  # a blank one


def test_the_text_holds_everything_but_the_media():
    fields = {field.name for field in dataclasses.fields(Record)} - {"media"} | {"kinds"}
    assert json.loads(FULL.to_json()).keys() == fields
    assert json.loads(PLAIN.to_json()).keys() == {"uid", "dataset", "split", "task", "slots", "answers", "kinds"}


def test_a_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.uid = "other"
