"""Samples to batches of few static shapes."""

import numpy as np
import pytest
import toys

from instructblip_jax.data.buckets import assign
from instructblip_jax.data.collate import collate, grid
from instructblip_jax.pixels import numbers
from instructblip_jax.processor import Processor


def media(count: int = 1, grey: float = 1.0) -> list[dict]:
    return [{"pixel_values": np.full((toys.SIZE, toys.SIZE, 3), grey, np.float32)}] * count


def test_the_cheapest_shape_that_holds_both():
    shapes = grid((30, 4, 9), (2, 9))
    assert shapes == [(4, 2), (9, 2), (4, 9), (9, 9), (30, 2), (30, 9)]
    lengths = [(1, 1), (4, 2), (5, 2), (4, 3), (9, 9), (10, 1), (30, 9), (31, 1)]
    assert assign(np.array(lengths), shapes).tolist() == [0, 0, 1, 2, 3, 4, 5, -1]


def test_both_instruction_rows_take_one_length(processor):
    # BERT's words are more: top-left is one token of the language model, and three of the Q-Former's.
    rows = [processor.encode("which digit is top-left ?", "3"), processor.encode("where ?", "top-left red 3 , 4")]
    batch = collate(rows, media(2), processor, shapes=grid((7, 8, 9, 16), (2, 6, 9)))
    assert len(rows[0]["input_ids"]) == 6
    assert len(rows[0]["qformer_input_ids"]) == 9
    names = {"input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask"}
    assert {batch[name].shape for name in names} == {(2, 9)}
    assert batch["labels"].shape == (2, 6)
    assert batch["pixel_values"].shape == (2, toys.SIZE, toys.SIZE, 3)
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
    np.testing.assert_array_equal(batch["labels"][0], [*rows[0]["labels"], *[-100] * 4])


def test_without_answers_no_response_length_is_asked_for(processor):
    batch = collate([processor.encode("where ?")], media(), processor, shapes=[(8, 0)])
    assert "labels" not in batch
    assert batch["input_ids"].shape == (1, 8)


def test_a_blank_image_is_the_mean_colour(processor):
    rows = [processor.encode("where ?", "here")]
    shown = media(grey=0.7)
    lengths = {"shapes": [(8, 8)]}
    seen = collate(rows, shown, processor, **lengths)
    blank = collate(rows, shown, processor, **lengths, blank=True)
    assert (seen["pixel_values"] == np.float32(0.7)).all()
    assert (blank["pixel_values"] == 0).all()
    assert blank["pixel_values"].dtype == np.float32
    assert (shown[0]["pixel_values"] == np.float32(0.7)).all()
    for name in blank.keys() - {"pixel_values"}:
        np.testing.assert_array_equal(seen[name], blank[name])
    bytes_of = [processor.media([("image", np.full((9, 9, 3), 70, np.uint8))])]
    blank = collate(rows[:1], bytes_of, processor, **lengths, blank=True)
    assert blank["pixel_values"].dtype == np.uint8
    assert (numbers(blank, "pixel_values") == 0).all()
    mean = np.full((9, 9, 3), np.rint(255 * np.array(processor.image.mean)), np.uint8)
    assert np.abs(processor.image(mean)).max() < 0.5 / 255 / min(processor.image.std)


@pytest.mark.parametrize("shape", [(4, 9), (9, 1)])
def test_rows_that_fit_no_shape_are_an_error_that_names_the_fields(processor, shape):
    with pytest.raises(ValueError, match=r"data\.instruction_lengths and data\.response_lengths go up to .* 9 \+ 2"):
        collate([processor.encode("which digit is top-left ?", "3")], media(), processor, shapes=[shape])


@pytest.fixture(scope="module")
def joined():
    """A processor of a decoder-only model, whose responses stand behind the instructions."""
    return Processor.from_pretrained(toys.GOLDENS / "opt")


def test_a_decoder_only_row_has_its_response_behind_its_instruction(joined):
    rows = [joined.encode("which digit is top-left ?", "3"), joined.encode("where ?", "top-left red 3 , 4")]
    lengths = [joined.lengths(row) for row in rows]
    for row, (asked, said) in zip(rows, lengths, strict=True):
        assert asked + said == len(row["input_ids"]) == len(row["labels"])
        assert (row["labels"] == -100).sum() == asked
    (first, one), (second, other) = lengths
    batch = collate(rows, media(2), joined, shapes=[(max(first, second) + 3, max(one, other) + 2)])
    whole = max(first, second) + 3 + max(one, other) + 2
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, whole)
    assert (batch["labels"] != -100).sum(1).tolist() == [one, other]
    with pytest.raises(ValueError, match=rf"a row has {max(first, second)} \+ {max(one, other)} tokens"):
        collate(rows, media(2), joined, shapes=[(max(first, second), max(one, other) - 1)])
