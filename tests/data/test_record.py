"""A record as text and back."""

import dataclasses
import json

import pytest

from instructblip_jax.data.record import Record

PLAIN = Record("set/train/0", "set", "train", "vqa", (b"\x89PNG\x00\xff",), {}, ("yes",))
FULL = Record(
    uid="größe/test/7",
    dataset="größe",
    split="test",
    task="mc",
    images=(bytes(range(256)), b""),
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
)


@pytest.mark.parametrize("record", [PLAIN, FULL], ids=["plain", "full"])
def test_the_round_trip_is_exact(record):
    text = record.to_json()
    assert "\n" not in text
    back = Record.from_json(text, record.images)
    assert back == record
    assert Record.from_json(text.encode(), record.images) == record
    assert isinstance(back.answers, tuple)
    assert isinstance(back.candidates, tuple)


def test_the_text_holds_everything_but_the_picture():
    fields = {field.name for field in dataclasses.fields(Record)} - {"images"}
    assert json.loads(FULL.to_json()).keys() == fields
    assert json.loads(PLAIN.to_json()).keys() == {"uid", "dataset", "split", "task", "slots", "answers"}


def test_a_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.uid = "other"
