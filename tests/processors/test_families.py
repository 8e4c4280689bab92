"""LLaMA's, OPT's and video batches and decoding against transformers' own processors; the tokenizers of the goldens."""

import json
import shutil

import numpy as np
import pytest
import toys
from PIL import Image

from instructblip_jax.data.collate import collate, grid
from instructblip_jax.processor import Processor
from instructblip_jax.processors.tokenizer import TextTokenizer

FAMILIES = ("instructblip", "llama", "opt")
"""Directories of goldens; the first is a T5."""
DECODER_ONLY = FAMILIES[1:]
TEXTS = [
    "What is unusual about this image?",
    "how many people\nare there",
    "a",
    "is it raining ? café 3×4 <0x41>",
]
ANSWERS = ["a dog sits on the table", "7", "naïve, very naïve 😀", "no"]
IMAGES = [Image.fromarray(np.full((9 + n, 14, 3), 40 * n, np.uint8)) for n in range(len(TEXTS))]


def theirs(directory):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(toys.GOLDENS / directory)


@pytest.fixture(scope="module", params=DECODER_ONLY)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(name) -> Processor:
    return Processor.from_pretrained(toys.GOLDENS / name)


@pytest.mark.parametrize("directory", FAMILIES)
def test_decoding_random_ids_is_transformers_decoding(directory):
    """Of all ids: special ones, bytes that are no character, tokens before punctuation."""
    tokenizer, reference = TextTokenizer(toys.GOLDENS / directory), theirs(directory)
    rng, changed = np.random.default_rng(0), 0
    rows = [rng.integers(0, len(reference), rng.integers(1, 12)).tolist() for _ in range(1500)]
    want = reference.batch_decode(rows, skip_special_tokens=True)
    for row, text in zip(rows, want, strict=True):
        assert tokenizer.decode(row) == text.strip(), row
        changed += reference.decode(row).strip() != text.strip()
    assert changed > 20  # rows with special tokens


def test_special_tokens_are_never_shown():
    llama = TextTokenizer(toys.GOLDENS / "llama")
    ids = llama.encode("a dog")
    assert ids[0] == 2  # the public Vicuna files begin with </s>
    assert llama.decode([1, *ids, 0, *ids[1:], 2, llama.pad_id]) == "a dog a dog"


def test_byte_tokens_make_characters():
    llama = TextTokenizer(toys.GOLDENS / "llama")
    ids = llama.encode("😀")
    assert len(ids) > 4
    assert llama.decode(ids) == "😀"
    assert llama.decode(ids[:-1]).endswith("\ufffd")


def test_a_decoded_answer_ends_at_a_stop_token(name, ours):
    words = ours.tokenizer.encode("a dog", special=False)
    rows = np.full((3, 12), ours.tokenizer.pad_id)
    rows[0, : len(words)] = words
    rows[1, : len(words)], rows[1, len(words)] = words, ours.end_id
    rows[1, len(words) + 1 :] = words[0]  # after the end token anything may stand
    rows[2, : len(words)], rows[2, len(words)] = words, min(ours.stop_ids - {ours.end_id}, default=ours.end_id)
    rows[2, len(words) + 1 :] = words[0]
    assert ours.decode(rows) == ["a dog"] * 3
    assert len(ours.stop_ids) == (2 if name == "opt" else 1)  # OPT's captions end with a line


@pytest.mark.parametrize("directory", FAMILIES)
def test_an_answer_ends_at_any_of_the_ends_that_a_configuration_lists(directory, tmp_path):
    copy = shutil.copytree(toys.GOLDENS / directory, tmp_path / "model")
    raw = json.loads((copy / "config.json").read_text())
    raw["text_config"]["eos_token_id"] = [9, 11]
    (copy / "config.json").write_text(json.dumps(raw))
    processor = Processor.from_pretrained(copy)
    assert processor.stop_ids == {processor.end_id, 9, 11}
    words = processor.tokenizer.encode("a dog", special=False).tolist()
    rows = np.array([[*words, end, *words] for end in processor.stop_ids])
    assert processor.decode(rows) == ["a dog"] * 3
    assert processor.response("a dog").tolist() == [*words, processor.end_id]


def test_prompts_are_the_reference_processors(name, ours):
    """Row for row without padding and placeholders: padding stands on our right and on their left."""
    transformers = pytest.importorskip("transformers")
    pil = pytest.importorskip("transformers.models.blip.image_processing_pil_blip")
    directory = toys.GOLDENS / name
    image_processor = pil.BlipImageProcessorPil.from_pretrained(directory)
    if name == "opt":
        reference = transformers.Blip2Processor(image_processor, theirs(name), num_query_tokens=0)
    else:
        qformer = transformers.AutoTokenizer.from_pretrained(directory / "qformer_tokenizer")
        reference = transformers.InstructBlipProcessor(image_processor, theirs(name), qformer, num_query_tokens=0)
    want = {key: np.asarray(x) for key, x in reference(images=IMAGES, text=TEXTS, padding=True).items()}
    got = ours(IMAGES, TEXTS)
    assert got.keys() == want.keys()
    np.testing.assert_array_equal(got["pixel_values"], want["pixel_values"].transpose(0, 2, 3, 1))
    for prefix in ("", "qformer_") if name == "llama" else ("",):
        ids, mask = got[f"{prefix}input_ids"], got[f"{prefix}attention_mask"]
        assert ids.dtype == mask.dtype == np.int32
        assert (np.diff(mask, axis=1) <= 0).all()
        for row, kept, their_row, their_kept in zip(
            ids, mask, want[f"{prefix}input_ids"], want[f"{prefix}attention_mask"], strict=True
        ):
            assert row[kept == 1].tolist() == their_row[their_kept == 1].tolist()


def test_a_training_row_is_instruction_answer_and_end(name, ours):
    """As the original has it: one begin token, before the instruction; the loss is the answer's and the end's."""
    tokenizer = theirs(name)
    batch = ours(IMAGES, TEXTS, ANSWERS)
    assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
    for n, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True)):
        start = tokenizer(text)["input_ids"]
        tail = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        width = batch["input_ids"].shape[1] - len(start + tail)
        assert batch["input_ids"][n].tolist() == start + tail + [tokenizer.pad_token_id] * width
        assert batch["attention_mask"][n].tolist() == [1] * len(start + tail) + [0] * width
        assert batch["labels"][n].tolist() == [-100] * len(start) + tail + [-100] * width
    if ours.qformer is not None:  # which never sees the answer
        np.testing.assert_array_equal(batch["qformer_input_ids"], ours(IMAGES, TEXTS)["qformer_input_ids"])


def test_long_texts_are_read_whole(name, ours):
    numbered = " ".join(str(n % 10) for n in range(600))
    tokenizer = theirs(name)
    row = ours.encode(numbered, numbered)
    start = tokenizer(numbered)["input_ids"]
    tail = [*tokenizer(numbered, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert len(tail) > 600
    assert row["input_ids"].tolist() == start + tail
    assert row["labels"].tolist() == [-100] * len(start) + tail


def test_rows_are_collated_to_the_sum_of_two_static_lengths(name, ours):
    rows = [ours.encode(text, answer) for text, answer in zip(TEXTS, ANSWERS, strict=True)]
    prompts = [int((row["labels"] == -100).sum()) for row in rows]
    answers = [int((row["labels"] != -100).sum()) for row in rows]
    batch = collate(
        rows, [ours.media(())] * len(rows), ours, shapes=grid((max(prompts) + 30, 200), (max(answers), 100))
    )
    width = max(prompts) + 30 + max(answers)
    assert batch["pixel_values"].shape == (len(TEXTS), ours.image.height, ours.image.width, 3)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (len(TEXTS), width)
    together = ours(IMAGES, TEXTS, ANSWERS)
    for key in ("input_ids", "labels", "attention_mask"):
        np.testing.assert_array_equal(batch[key][:, : together[key].shape[1]], together[key])
    assert (batch["labels"][:, together["labels"].shape[1] :] == -100).all()
    with pytest.raises(ValueError, match=r"data\.response_lengths"):
        collate(rows, (), ours, shapes=[(200, max(answers) - 1)])
    alone = [{key: x for key, x in row.items() if key != "labels"} | ours.encode("a") for row in rows]
    assert collate(alone, (), ours, shapes=[(50, 0)])["input_ids"].shape == (len(rows), 50)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Processor:
    directory = shutil.copytree(toys.GOLDENS / "llama", tmp_path_factory.mktemp("video"), dirs_exist_ok=True)
    shutil.copy(toys.GOLDENS / "video" / "config.json", directory)
    return Processor.from_pretrained(directory)


def test_a_video_is_its_frames_one_by_one(video):
    frames = [np.random.default_rng(n).integers(0, 256, (20 + n, 17, 3), np.uint8) for n in range(4)]
    batch = video([frames, frames[::-1]], ["what happens ?", "why ?"], ["a dog", "no"])
    side = video.image.height
    assert batch["pixel_values"].shape == (2, 4, side, side, 3)
    for n, frame in enumerate(frames):
        np.testing.assert_array_equal(batch["pixel_values"][0, n], video.image(frame))
        np.testing.assert_array_equal(batch["pixel_values"][1, -1 - n], video.image(frame))
    one = video(frames[:2], ["what happens ?", "why ?"], ["a dog", "no"])  # two pictures are no video
    assert one["pixel_values"].shape == (2, side, side, 3)
    for key in one.keys() - {"pixel_values"}:
        np.testing.assert_array_equal(batch[key], one[key])
    same = np.stack([frames[0]] * 3)
    assert video([same], ["why ?"])["pixel_values"].shape == (1, 3, side, side, 3)


def test_videos_that_make_no_batch_are_refused(video):
    frame = np.zeros((5, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="image 1 is a video without frames"):
        video([[frame], []], ["a", "b"])
    with pytest.raises(ValueError, match="same number of frames; these have 1, 2"):
        video([[frame], [frame] * 2], ["a", "b"])
    with pytest.raises(ValueError, match="same number of frames; these have a picture, 2"):
        video([frame, [frame] * 2], ["a", "b"])
    with pytest.raises(ValueError, match="image 0, frame 1"):
        video([[frame, b"broken"]], ["a"])


@pytest.mark.parametrize("directory", FAMILIES)
def test_a_token_beyond_the_embedding_is_named(directory, tmp_path):
    copy = shutil.copytree(toys.GOLDENS / directory, tmp_path / "model")
    path = copy / "config.json"
    good = json.loads(path.read_text())
    sections = ["text_config"] + ["qformer_config"] * ("qformer_tokenizer" in {p.name for p in copy.iterdir()})
    for section in sections:
        rows = good[section]["vocab_size"]
        path.write_text(json.dumps(good | {section: good[section] | {"vocab_size": 100}}))
        with pytest.raises(
            ValueError, match=rf"has id \d+, but the embedding has 100 rows .*{section}\.vocab_size"
        ) as got:
            Processor.from_pretrained(copy)
        assert "tokenizer.json" in str(got.value)
        assert "\n" not in str(got.value)
        assert rows > 100
