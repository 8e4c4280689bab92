"""Texts with pictures in them as Flamingo and Idefics read them, and what of a document is learnt."""

import flamingo_files
import minis
import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib

PICTURE = Image.fromarray(np.zeros((20, 30, 3), np.uint8))


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    return {kind: ib.Processor.from_pretrained(minis.write(root / kind, kind)) for kind in flamingo_files.KINDS}


def shown(processor, ids):
    return [processor.tokenizer.token(int(i)) for i in ids]


def tokens(processor, *pieces):
    """Tokens of texts and special tokens, by a tokenizer that knows the latter."""
    found = [processor.tokenizer.token(int(processor.tokenizer.encode("a")[0]))]
    for piece in pieces:
        special = piece.startswith("<")
        found += [piece] if special else shown(processor, processor.tokenizer.encode(piece, special=False))
    return found


def test_the_text_of_a_picture_ends_where_the_next_one_stands(processors):
    flamingo = processors["flamingo"]
    text = "digits : <image> a 3 \n<image><image>which digit ?"
    got = shown(flamingo, flamingo.encode(text, pictures=3)["input_ids"])
    end = "<|endofchunk|>"
    assert got == tokens(flamingo, "digits :", "<image>", "a 3", end, "\n", "<image>", "<image>", "which digit ?")
    assert shown(flamingo, flamingo.encode("", pictures=1)["input_ids"]) == tokens(flamingo, "<image>")
    row = flamingo.encode("", "a 3", training=True)
    assert shown(flamingo, row["input_ids"]) == tokens(flamingo, "<image>", "a 3", end)
    assert (row["labels"] != -100).sum() == len(flamingo.response("a 3"))
    with pytest.raises(ValueError, match="holds <image> 1 times, and its row has 2 pictures"):
        flamingo.encode("a <image>", pictures=2)


def test_special_tokens_that_a_user_writes_stay_text(processors):
    ids = processors["flamingo"].encode("a <|endofchunk|> </s>", pictures=0)["input_ids"]
    config = processors["flamingo"].config
    assert not set(ids.tolist()) & {config.chunk_token_id, config.document_end}


def test_neighbouring_pictures_share_a_token(processors):
    idefics = processors["idefics"]
    fake = "<fake_token_around_image>"
    got = shown(idefics, idefics.encode("<image> <image>which digit ? <image>", pictures=3)["input_ids"])
    want = tokens(idefics, fake, "<image>", fake, "<image>", fake, "which digit ?", fake, "<image>", fake)
    assert got == want


def test_what_of_a_document_is_learnt(processors):
    flamingo, idefics = processors["flamingo"], processors["idefics"]
    parts = ["which digit ?", 0, "a 3", 1, "a 7"]
    row = flamingo.document(parts)
    end, last = "<|endofchunk|>", "</s>"
    assert shown(flamingo, row["input_ids"]) == tokens(
        flamingo, "which digit ?", "<image>", "a 3", end, "<image>", "a 7", end, last
    )
    learnt = row["input_ids"][row["labels"] != -100]
    assert shown(flamingo, learnt) == tokens(flamingo, "a 3", end, "a 7", end)[1:]
    assert (row["labels"] == row["input_ids"])[row["labels"] != -100].all()
    ahead = ib.Processor.from_pretrained(directory_of(processors), next_picture=0.5)
    row = ahead.document(parts)  # text before the first picture may see it
    assert (row["labels"] == -100).sum() == 2
    row = idefics.document(parts)
    assert row["input_ids"][-1] == idefics.config.document_end
    assert (row["input_ids"][row["labels"] == -100] == idefics.config.image_token_id).all()


def directory_of(processors):
    return processors["flamingo"].tokenizer._path.parent


def test_a_video_is_one_medium(processors):
    flamingo = processors["flamingo"]
    kinds = ("frame",) * 4
    media = flamingo.stack([flamingo.media([(kind, PICTURE) for kind in kinds])] * 2, kinds)
    row = flamingo.encode("a 3", "no", training=True, pictures=flamingo.shown(kinds))
    batch = media | flamingo.batch([row] * 2, 8, 8, kinds)
    want = flamingo.config.batch(2, 8, 8, kinds)
    assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {k: (x.shape, x.dtype) for k, x in want.items()}
    assert batch["pixel_values"].shape[1:3] == (1, 4)


def test_a_batch_may_have_no_pictures_at_all(processors):
    flamingo = processors["flamingo"]
    model = ib.from_pretrained(directory_of(processors), dtype="float32")
    batch = flamingo([[], []], ["which digit ?", "a 3"])
    without = batch | {"pixel_values": batch["pixel_values"][:, :0]}
    np.testing.assert_allclose(model(without), model(batch), atol=1e-5)
    got, want = (ib.generate_ids(model, one, max_new_tokens=3) for one in (without, batch))
    np.testing.assert_array_equal(got, want)
