"""BLIP's public forms against transformers on PyTorch, live, on fresh random checkpoints."""

import checkpoints
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax.convert.layouts.hf_blip import TASKS

torch = pytest.importorskip("torch", reason="the reference is transformers on PyTorch")
import transformers  # noqa: E402

ROWS, WORDS, SEP = 3, 32, 3
LENGTHS = [7, 4, 6]


def case(directory, task):
    """Ours and transformers' model of one directory; pixels for both; texts of several lengths."""
    checkpoints.write(directory, checkpoints.blip_json(TASKS[task], checkpoints.TINY, num_hidden_layers=2), seed=7)
    if task != "retrieval":  # answers of several lengths
        tensors = load_file(directory / "model.safetensors")
        tensors["text_decoder.cls.predictions.bias"][SEP] += 2.0
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    ours = ib.from_pretrained(directory, dtype="float32")
    theirs, info = getattr(transformers, TASKS[task]).from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] | info["unexpected_keys"]
    side, rng = ours.config.vision.image_size, np.random.default_rng(3)
    pixels = rng.standard_normal((ROWS, side, side, 3), np.float32)
    mask = (np.arange(7) < np.array(LENGTHS)[:, None]).astype(np.int32)
    ids = rng.integers(5, WORDS, mask.shape).astype(np.int32) * mask
    ids[np.arange(ROWS), np.array(LENGTHS) - 1] = SEP
    return ours, theirs.eval(), pixels, torch.tensor(pixels).movedim(-1, 1), ids, mask


def cut(row):
    row = [int(x) for x in row]
    return row[: row.index(SEP) + 1] if SEP in row else row


def test_captions(tmp_path):
    ours, theirs, pixels, given, ids, mask = case(tmp_path / "model", "captioning")
    ids[:, 0] = WORDS
    labels = np.where(mask, ids, -100).astype(np.int32)
    batch = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "labels": labels}
    texts = {n: torch.tensor(batch[n].astype(np.int64)) for n in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        want = theirs(pixel_values=given, **texts)
    real = mask == 1
    np.testing.assert_allclose(ours(batch)[real], want.logits.numpy()[real], rtol=1e-4, atol=1e-4)
    assert float(ib.loss(ours, batch)[0]) == pytest.approx(want.loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("prompted", "options"),
    [
        (True, {"num_beams": 3, "repetition_penalty": 1.5}),
        pytest.param(False, {"num_beams": 1}, marks=pytest.mark.long),
    ],
)
def test_captions_are_written_token_for_token(tmp_path, prompted, options):
    ours, theirs, pixels, given, _, _ = case(tmp_path / "model", "captioning")
    prompt = np.tile(np.array([[WORDS, 9, 12, SEP]], np.int32), (ROWS, 1))  # transformers drops the last one
    with torch.no_grad():
        more = {"input_ids": torch.tensor(prompt.astype(np.int64))} if prompted else {}
        found = theirs.generate(pixel_values=given, **more, max_length=14, **options).numpy()
    fed = prompt[:, :-1] if prompted else np.full((ROWS, 1), WORDS, np.int32)
    wide = np.pad(fed, ((0, 0), (0, 2)), constant_values=7)  # padding is not counted either
    read = {"input_ids": wide, "attention_mask": (np.arange(wide.shape[1]) < fed.shape[1]) * np.ones_like(wide)}
    got = ib.generate_ids(ours, {"pixel_values": pixels, **read}, max_new_tokens=14 - fed.shape[1], **options)
    assert [cut(row) for row in got] == [cut(row) for row in found[:, fed.shape[1] :]]


@pytest.mark.reference
def test_answers(tmp_path):
    ours, theirs, pixels, given, ids, mask = case(tmp_path / "model", "question_answering")
    ids[:, 0] = WORDS + 1
    batch = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    got = ib.generate_ids(ours, batch, num_beams=3, max_new_tokens=9)
    for n, length in enumerate(LENGTHS):  # padded questions are answered as transformers answers single ones
        with torch.no_grad():
            row = torch.tensor(ids[n : n + 1, :length].astype(np.int64))
            found = theirs.generate(pixel_values=given[n : n + 1], input_ids=row, num_beams=3, max_length=10)
        assert cut(got[n]) == cut(found[0, 1:])


def test_pairs_and_exports_of_what_was_trained(tmp_path):
    ours, theirs, pixels, given, ids, mask = case(tmp_path / "model", "retrieval")
    batch = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
    texts = {n: torch.tensor(x.astype(np.int64)) for n, x in (("input_ids", ids), ("attention_mask", mask))}
    media = ours.encode(batch)
    words = {n: batch[n] for n in texts}
    with torch.no_grad():
        cosines = theirs(pixel_values=given, **texts, use_itm_head=False).itm_score
        texts["input_ids"][:, 0] = WORDS + 1
        matched = theirs(pixel_values=given, **texts).itm_score
    found = ours.embed_media(media) @ ours.embed_texts(words).T
    np.testing.assert_allclose(found, cosines.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.match(media, words), matched.numpy(), rtol=1e-4, atol=1e-5)

    with pytest.raises(ValueError, match="this system generates no text; it compares or classifies"):
        ours.prefill(media, words)

    # The temperature trains, and is no tensor of the public layout.
    assert "med/temp" in ours.train
    ours.save_pretrained(tmp_path / "out")
    assert checkpoints.leaves_equal(*(load_file(tmp_path / d / "model.safetensors") for d in ("model", "out")))
