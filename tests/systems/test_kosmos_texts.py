"""KOSMOS' texts: which ids they become, and which of them are learnt."""

import json

import minis
import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.processors.kosmos import SquareImageProcessor

IGNORE = -100
IMAGE = Image.fromarray(np.full((24, 24, 3), 40, np.uint8))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return minis.write(tmp_path_factory.mktemp("kosmos") / "kosmos-1", "kosmos-1")


@pytest.fixture(scope="module")
def processor(directory):
    return ib.Processor.from_pretrained(directory)


def picture(processor):
    config = processor.config
    return [config.begin_id, *range(4, 4 + config.slots), config.end_id]


def words(processor, text):
    return processor.tokenizer.encode(text, special=False).tolist()


def test_pictures_stand_at_their_marks(processor):
    begin, shown = [processor.config.text.bos_token_id], picture(processor)
    one, two = words(processor, "is there a 7 ?"), words(processor, "two")
    for text, pictures, want in (
        ("is there a 7 ?", 0, one),
        ("is there a 7 ?", 2, shown + shown + one),
        ("<image>two<image>is there a 7 ?", 2, shown + two + shown + one),
        ("two <image>", 1, two + shown),
        ("", 1, shown),
    ):
        ids = processor.encode(text, pictures=pictures)["input_ids"]
        assert ids.tolist() == begin + want
        assert processor.pictures_in(ids) == pictures
    with pytest.raises(ValueError, match="holds <image> 1 times, and its row has 2 pictures"):
        processor.encode("<image>two", pictures=2)


def test_what_is_learnt(processor):
    end, shown = processor.end_id, picture(processor)
    row = processor.encode("is there a 7 ?", "two", training=True)
    answer = [*words(processor, "two"), end]
    assert row["input_ids"].tolist()[-len(answer) :] == row["labels"].tolist()[-len(answer) :] == answer
    assert (row["labels"][: -len(answer)] == IGNORE).all()
    read = processor.document(["two", 0, "is there a 7 ?", 1])
    text = words(processor, "two"), words(processor, "is there a 7 ?")
    assert read["input_ids"].tolist() == [processor.config.text.bos_token_id, *text[0], *shown, *text[1], *shown, end]
    hidden = [IGNORE] * len(shown)
    assert read["labels"].tolist() == [IGNORE, *text[0], *hidden, *text[1], *hidden, end]
    assert processor.lengths(read) == (1, len(text[0]) + len(text[1]) + 1)


def test_tags_that_people_write_are_words(processor):
    ids = processor.encode("two</image>", "<image>two", pictures=1)["input_ids"]
    assert (ids == processor.config.end_id).sum() == (ids == processor.config.begin_id).sum() == 1
    assert processor.pictures_in(ids) == 1


def test_rows_with_any_number_of_pictures_share_a_batch(processor):
    batch = processor([[IMAGE, IMAGE], [], IMAGE], ["<image>two<image>", "is there a 7 ?", "two"])
    assert batch["pixel_values"].shape[:2] == (3, 2)
    assert not batch["pixel_values"][1].any()
    assert (batch["input_ids"] == processor.config.begin_id).sum(axis=1).tolist() == [2, 0, 1]


def test_texts_alone_need_no_picture(directory, processor):
    model = ib.from_pretrained(directory, dtype="float32")
    texts = {name: x[:1] for name, x in processor([[], IMAGE], ["is there a 7 ?", "two"]).items()}
    alone = processor([[]], ["is there a 7 ?"])
    assert (alone["pixel_values"].shape[1], texts["pixel_values"].shape[1]) == (0, 1)
    length = alone["input_ids"].shape[1]
    np.testing.assert_allclose(model(alone), model(texts)[:, :length], rtol=1e-5, atol=1e-5)
    described = model.config.batch(1, length, kinds=(), training=False)
    made = processor.stack([processor.media([])]) | {key: alone[key] for key in ("input_ids", "attention_mask")}
    assert {key: (x.shape, x.dtype) for key, x in made.items()} == {k: (x.shape, x.dtype) for k, x in described.items()}


def test_kosmos_2_says_its_square_as_a_shorter_side(directory, tmp_path):
    raw = json.loads((directory / "preprocessor_config.json").read_text())
    for square, read in ((True, True), (False, False)):
        raw |= {"size": {"shortest_edge": 224}, "use_square_size": square}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
        if read:
            assert SquareImageProcessor.from_pretrained(tmp_path).height == 224
        else:
            with pytest.raises(ValueError, match="size, image_mean"):
                SquareImageProcessor.from_pretrained(tmp_path)
