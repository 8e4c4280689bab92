"""A split as batches of questions: in order, in one size, every picture once."""

import numpy as np
import pytest

from instructblip_jax.data.evaluation import LONGER, evaluation_batches
from instructblip_jax.data.prepared import open_set
from instructblip_jax.data.record import Record
from instructblip_jax.datasets.digits.templates import TEMPLATES

OPTIONS = {"batch_size": 4, "instruction_lengths": (24, 32)}


@pytest.mark.parametrize(("batch_size", "counts"), [(4, [4, 4, 3]), (11, [11]), (64, [11]), (1, [1] * 11)])
def test_a_split_in_order_in_one_shape(prepared, processor, batch_size, counts):
    source = open_set(prepared, "digit_at", "test")
    options = OPTIONS | {"batch_size": batch_size}
    found = list(evaluation_batches(source, processor, TEMPLATES, **options))
    assert [len(asked.records) for asked in found] == counts
    assert [record for asked in found for record in asked.records] == [source[n] for n in range(len(source))]
    for asked in found:
        assert asked.text.keys() == {"input_ids", "qformer_input_ids", "attention_mask", "qformer_attention_mask"}
        assert {len(x) for x in asked.text.values()} == {batch_size} == {len(asked.place)}
        assert asked.text["input_ids"].shape[1] in (24, 32)
        for n in range(batch_size):
            record = asked.records[n] if n < len(asked.records) else asked.records[0]  # filled up with the first
            np.testing.assert_array_equal(
                asked.media["pixel_values"][asked.place[n]], processor.image.pixels(record.images[0])
            )
            want = TEMPLATES["digit_at"][0].format(**record.slots)
            assert processor.decode(asked.text["input_ids"][n : n + 1]) == [want]


def test_going_on_from_the_middle(prepared, processor):
    source = open_set(prepared, "digit_at", "test")
    whole = list(evaluation_batches(source, processor, TEMPLATES, **OPTIONS))
    rest, _ = evaluation_batches(source, processor, TEMPLATES, **OPTIONS, start=4)
    assert rest.records == whole[1].records
    np.testing.assert_array_equal(rest.media["pixel_values"], whole[1].media["pixel_values"])


def own_records(prepared, processor, pictures) -> list[Record]:
    images = [open_set(prepared, "digit_at", "test")[n].media for n in range(8)]
    return [
        Record(f"own/test/{n}", "own", "test", "vqa", images[k], {}, (), instruction=f"where is {n} ?")
        for n, k in enumerate(pictures)
    ]


@pytest.mark.parametrize(
    ("pictures", "count"), [((0, 0, 0, 0, 0, 0, 0, 0), 1), ((0, 1, 0, 1, 1, 0, 0, 0), 2), ((2, 1, 0, 1, 1, 0, 0, 0), 4)]
)
def test_a_picture_is_decoded_once_however_many_questions_it_gets(prepared, processor, pictures, count):
    records = own_records(prepared, processor, pictures)
    (asked,) = evaluation_batches(records, processor, {}, batch_size=8, instruction_lengths=(24,))
    assert asked.rows == len(asked.media["pixel_values"]) == count
    for n, record in enumerate(records):
        np.testing.assert_array_equal(
            asked.media["pixel_values"][asked.place[n]], processor.image.pixels(record.images[0])
        )
    (part,) = evaluation_batches(
        records, processor, {}, batch_size=8, instruction_lengths=(24,), own=lambda number: np.arange(number)[:1]
    )
    assert part.rows == count
    assert part.own.tolist() == [0]
    np.testing.assert_array_equal(part.media["pixel_values"], asked.media["pixel_values"][:1])
    np.testing.assert_array_equal(part.place, asked.place)
    np.testing.assert_array_equal(part.text["input_ids"], asked.text["input_ids"])


def test_a_question_longer_than_all_lengths_is_asked_whole(prepared, processor):
    record = own_records(prepared, processor, (0,))[0]
    long = Record(**{**vars(record), "instruction": "where is the digit ? " * 30})
    (asked,) = evaluation_batches([long], processor, {}, batch_size=1, instruction_lengths=(24, 32))
    want = processor.encode(long.instruction)
    assert len(want["input_ids"]) > 128
    length = asked.text["input_ids"].shape[1]
    assert (length - 32) % LONGER == 0
    np.testing.assert_array_equal(asked.text["input_ids"][0, : len(want["input_ids"])], want["input_ids"])
    assert asked.text["attention_mask"].sum() == len(want["input_ids"])
    np.testing.assert_array_equal(asked.text["qformer_input_ids"][0], want["qformer_input_ids"])
    assert (
        asked.text["qformer_attention_mask"].sum() == processor.config.qformer.max_position_embeddings
    )  # it reads the end


def test_the_templates_are_checked_first(prepared, processor):
    source = open_set(prepared, "digit_at", "test")
    wrong = {"digit_at": ["which {digit} ?"]}
    with pytest.raises(ValueError, match=r"'digit_at'.*digit.*place"):
        next(evaluation_batches(source, processor, wrong, batch_size=4, instruction_lengths=(24,)))
