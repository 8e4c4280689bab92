"""Token ids and masks against transformers' own tokenizers, and the batch that the processor makes of them."""

import json
import shutil
import warnings

import numpy as np
import pytest
import toys
from PIL import Image

from instructblip_jax.processor import Processor
from instructblip_jax.processors.tokenizer import TextTokenizer

TEXTS = [
    "which digit is top-left ?",
    "Question: What is in the picture? Short answer:",
    "  two   spaces\tand a tab ",
    "line one\nline two\r\n\nline four",
    "UPPER lower MiXed",
    "café naïve Ünïcödé",  # composed and decomposed letters
    "cafe\u0301",
    "数字は何ですか",
    "что это? 3×4=12",
    "emoji 😀👩‍👩‍👧 and \u200bzero width",
    "control \x00\x07 characters \ufffd",
    "عربى עברית",
    "don't stop , can ' t ...",
    "3.14159 1,000,000 $5 50% a_b@c.de",
    "\u00a0no-break\u3000space",
    "-",
    "?",
    "a" * 300,
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A tiny InstructBLIP directory, without weights."""
    directory = tmp_path_factory.mktemp("digits")
    toys.write_processor(directory)
    return directory


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    directory = tmp_path_factory.mktemp("blip2")
    toys.write_processor(directory, "blip-2")
    return directory


@pytest.fixture(scope="module", params=["public form", "digits", "shipped"])
def directory(request, digits):
    """T5 and BERT tokenizers as the public repositories have them (small ones), and the digits world's."""
    return {"public form": toys.GOLDENS / "instructblip", "digits": digits, "shipped": toys.SHIPPED}[request.param]


@pytest.fixture(scope="module")
def processor(digits):
    return Processor.from_pretrained(digits)


def theirs(directory, side: str):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(directory, truncation_side=side)


PARTS = ("", "qformer_tokenizer")


@pytest.mark.parametrize("part", PARTS)
def test_ids_are_those_of_transformers(directory, part):
    ours, reference = TextTokenizer(directory / part), theirs(directory / part, "left")
    assert ours.pad_id == reference.pad_token_id
    for text in TEXTS:
        got = ours.encode(text)
        assert got.dtype == np.int32
        assert got.tolist() == reference(text)["input_ids"], text


@pytest.mark.parametrize("part", PARTS)
def test_too_long_texts_are_cut_as_transformers_cuts_them(directory, part):
    ours, reference = TextTokenizer(directory / part), theirs(directory / part, "left")
    for text in [*TEXTS, "which digit is top-left ? " * 40]:
        for length in (3, 4, 8, 17):
            want = reference(text, truncation=True, max_length=length)["input_ids"]
            assert ours.encode(text, length).tolist() == want, (text, length)


def test_only_the_qformer_loses_the_beginning_of_an_instruction_and_says_so(directory):
    processor = Processor.from_pretrained(directory)
    numbered = " ".join(str(n % 10) for n in range(700))
    positions = json.loads((directory / "config.json").read_text())["qformer_config"]["max_position_embeddings"]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        row = processor.encode(numbered, numbered)
        processor.encode(f"{numbered} 1", "2")
        assert processor.config.instruction_limit(training=True) == positions < 128
        trained = processor.encode(numbered, numbered, training=True)
    (warning,) = told  # the second one is not told again
    own, bert = theirs(directory, "left"), theirs(directory / "qformer_tokenizer", "left")
    assert row["input_ids"].tolist() == row["labels"].tolist() == own(numbered)["input_ids"]
    assert len(row["labels"]) > 700
    want = bert(numbered, truncation=True, max_length=positions)["input_ids"]
    assert row["qformer_input_ids"].tolist() == want
    assert want[-2] == bert(numbered[-1])["input_ids"][1]  # its end
    words = str(warning.message)
    assert f"{len(bert(numbered)['input_ids'])} tokens" in words
    assert f"{positions} positions" in words
    assert "last" in words
    for name, ids in row.items():
        np.testing.assert_array_equal(trained[name], ids)


def test_training_reads_what_the_original_read(directory, tmp_path):
    """The last 128 tokens of an instruction, for a Q-Former with the 512 positions of the public ones."""
    copy = shutil.copytree(directory, tmp_path / "model")
    raw = json.loads((copy / "config.json").read_text())
    raw["qformer_config"]["max_position_embeddings"] = 512
    (copy / "config.json").write_text(json.dumps(raw))
    processor = Processor.from_pretrained(copy)
    numbered = " ".join(str(n % 10) for n in range(300))
    whole, trained = processor.encode(numbered), processor.encode(numbered, training=True)
    assert len(trained["qformer_input_ids"]) == processor.config.instruction_limit(training=True) == 128
    np.testing.assert_array_equal(trained["qformer_input_ids"][1:], whole["qformer_input_ids"][-127:])
    assert len(whole["qformer_input_ids"]) == 302
    np.testing.assert_array_equal(trained["input_ids"], whole["input_ids"])
    assert processor.lengths(whole) == (max(map(len, whole.values())), 0)
    for asked, training, read in ((600, False, 512), (320, False, 320), (600, True, 128), (64, True, 64)):
        short = processor.encode("which ?")
        batch = processor.batch([short], asked, training=training)
        assert {key: x.shape[1] for key, x in batch.items() if "ids" in key} == {
            "input_ids": asked,
            "qformer_input_ids": read,
        }


def test_a_batch_is_the_reference_processors(directory):
    """Token for token and mask for mask, padding included, without their image placeholders."""
    transformers = pytest.importorskip("transformers")
    pil = pytest.importorskip("transformers.models.blip.image_processing_pil_blip")
    reference = transformers.InstructBlipProcessor(
        image_processor=pil.BlipImageProcessorPil.from_pretrained(directory),
        tokenizer=theirs(directory, "left"),
        qformer_tokenizer=theirs(directory / "qformer_tokenizer", "left"),
        num_query_tokens=0,
    )
    images = [Image.fromarray(np.full((9 + n, 14, 3), 40 * n, np.uint8)) for n in range(4)]
    texts = [TEXTS[0], TEXTS[3], TEXTS[5], TEXTS[-1]]
    want = reference(images=images, text=texts, padding=True, return_tensors="np")
    got = Processor.from_pretrained(directory)(images, texts)
    assert got.keys() == set(want.keys())
    np.testing.assert_array_equal(got.pop("pixel_values"), want["pixel_values"].transpose(0, 2, 3, 1))
    for name, array in got.items():
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, want[name], name)


def test_layout_of_masks_padding_and_labels(processor):
    image = np.zeros((5, 6, 3), np.uint8)
    batch = processor([image] * 3, ["which digit ?", "read the top row please", "where"], ["3", "1 2 3 4", "top-left"])
    assert batch["pixel_values"].shape == (3, toys.SIZE, toys.SIZE, 3)
    assert batch["pixel_values"].dtype == np.float32
    for prefix, tokenizer in (("", processor.tokenizer), ("qformer_", processor.qformer)):
        ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]
        assert ids.shape == mask.shape
        assert set(np.unique(mask)) == {0, 1}
        assert (np.diff(mask, axis=1) <= 0).all()  # real tokens first, then padding
        assert mask.sum(1).max() == mask.shape[1]
        assert (ids[mask == 0] == tokenizer.pad_id).all()
        assert (ids[mask == 1] != tokenizer.pad_id).all()
    labels = batch["labels"]
    assert labels.shape == (3, 5)  # the longest answer and its end
    assert [row[row != -100].tolist()[-1] for row in labels] == [1, 1, 1]
    assert [(row != -100).sum() for row in labels] == [2, 5, 2]
    assert (labels[0, 2:] == -100).all()
    assert {x.dtype for name, x in batch.items() if name != "pixel_values"} == {np.dtype(np.int32)}


def test_without_responses_there_are_no_labels_and_one_pair_needs_no_lists(processor):
    batch = processor(np.zeros((5, 6, 3), np.uint8), "which digit ?")
    assert batch.keys() == {
        "pixel_values",
        "input_ids",
        "attention_mask",
        "qformer_input_ids",
        "qformer_attention_mask",
    }
    assert {len(x) for x in batch.values()} == {1}


def test_blip2_has_no_qformer_text(blip2):
    processor = Processor.from_pretrained(blip2)
    batch = processor([np.zeros((5, 6, 3), np.uint8)], ["which digit ?"], ["3"])
    assert batch.keys() == {"pixel_values", "input_ids", "attention_mask", "labels"}


def test_rows_do_not_depend_on_their_neighbours(processor):
    image = np.zeros((5, 6, 3), np.uint8)
    texts, answers = ["which digit ?", "read the top row please", "where"], ["3", "1 2 3", "no"]
    together = processor([image] * 3, texts, answers)
    for n, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        alone = processor(image, text, answer)
        for name in alone.keys() - {"pixel_values"}:
            row = together[name][n]
            np.testing.assert_array_equal(row[: alone[name].shape[1]], alone[name][0])
            assert (row[alone[name].shape[1] :] == (-100 if name == "labels" else 0)).all()


def test_padding_to_given_lengths(processor):
    rows = [processor.encode("which digit ?", "3"), processor.encode("where", "top-left red")]
    lengths = {"input_ids": 24, "qformer_input_ids": 24, "labels": 6}
    batch = processor.pad(rows, lengths)
    assert {name: x.shape for name, x in batch.items()} == {
        "input_ids": (2, 24),
        "attention_mask": (2, 24),
        "qformer_input_ids": (2, 24),
        "qformer_attention_mask": (2, 24),
        "labels": (2, 6),
    }
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
    with pytest.raises(ValueError, match="labels: a row of 3 tokens does not fit the length 2"):
        processor.pad(rows, lengths | {"labels": 2})


def test_decoding_stops_at_the_end_token_and_drops_special_ones(directory):
    processor = Processor.from_pretrained(directory)
    ids = processor.encode("x", "red 3")["labels"]
    filled = np.full((4, 12), 0, np.int32)
    filled[0, : len(ids)] = ids
    filled[1, : len(ids)] = ids
    filled[1, len(ids) : 2 * len(ids)] = ids  # after the end token anything may stand
    filled[2, : len(ids) - 1] = ids[:-1]  # no end token
    filled[3, 0] = 1
    assert processor.decode(filled) == ["red 3", "red 3", "red 3", ""]
    reference = theirs(directory, "left")
    for text in ("which digit is top-left", "3 4 5", "green and blue"):
        ids = processor.encode("x", text)["labels"][None]
        assert processor.decode(ids) == reference.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("images", "instructions", "responses", "words"),
    [
        (2, ["a"], None, ["2 images", "1 instructions"]),
        (1, ["a", "b"], None, ["1 images", "2 instructions"]),
        (2, ["a", "b"], ["c"], ["2 images", "1 responses"]),
        (2, "a", None, ["2 images", "1 instructions"]),
        (2, ["a", ""], None, ["instructions[1]", "''"]),
        (2, ["  \n", "b"], None, ["instructions[0]"]),
        (2, ["a", None], None, ["instructions[1]", "None"]),
        (2, ["a", "b"], ["c", ""], ["responses[1]"]),
        (2, ["a", "b"], ["c", 3], ["responses[1]", "3"]),
        (0, [], None, ["image"]),
    ],
)
def test_wrong_counts_and_empty_texts_are_named(processor, images, instructions, responses, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        processor([np.zeros((5, 6, 3), np.uint8)] * images, instructions, responses)
    for word in words:
        assert word in str(caught.value)


def test_an_unusable_picture_of_several_is_told_by_its_place_or_path(processor, tmp_path):
    good = np.zeros((5, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="image 1"):
        processor([good, b"broken"], ["a", "b"])
    with pytest.raises(ValueError, match=r"gone\.png"):
        processor([good, tmp_path / "gone.png"], ["a", "b"])


# Directories that do not hold what is needed.


def copied(source, tmp_path):
    return shutil.copytree(source, tmp_path / "model")


CONTENTS = {"absent": None, "empty": "", "cut": "{", "list": "[1]", "foreign": '{"a": 1}'}
FILES = ["config.json", "preprocessor_config.json"]
FILES += [
    f"{part}{name}" for part in ("", "qformer_tokenizer/") for name in ("tokenizer.json", "tokenizer_config.json")
]
# A config.json that says nothing is the public default: sparse ones are read.
BROKEN = [(file, kind) for file in FILES for kind in CONTENTS if (file, kind) != ("config.json", "foreign")]


@pytest.mark.parametrize(("file", "kind"), BROKEN)
def test_each_file_that_is_absent_or_broken_is_named(digits, tmp_path, file, kind):
    directory = copied(digits, tmp_path)
    (directory / file).unlink()
    if CONTENTS[kind] is not None:
        (directory / file).write_text(CONTENTS[kind])
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        Processor.from_pretrained(directory)
    assert str(directory / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_language_model_and_an_absent_directory(digits, tmp_path):
    directory = copied(digits, tmp_path)
    raw = json.loads((directory / "config.json").read_text())
    raw["text_config"]["model_type"] = "gpt2"
    (directory / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"config\.json: text_config\.model_type is 'gpt2'"):
        Processor.from_pretrained(directory)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Processor.from_pretrained(tmp_path / "nowhere")


def test_a_special_token_that_the_vocabulary_lacks_is_named(digits, tmp_path):
    directory = copied(digits, tmp_path)
    for name in ("pad_token", "eos_token"):
        path = directory / "tokenizer_config.json"
        good = path.read_text()
        path.write_text(json.dumps(json.loads(good) | {name: "<gone>"}))
        with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {name} '<gone>'"):
            Processor.from_pretrained(directory)
        path.write_text(good)


def test_special_tokens_may_be_written_as_objects(digits, tmp_path):
    """As `tokenizer_config.json` of transformers 4 has them."""
    directory = copied(digits, tmp_path)
    path = directory / "tokenizer_config.json"
    raw = json.loads(path.read_text())
    raw |= {name: {"__type": "AddedToken", "content": raw[name]} for name in ("pad_token", "eos_token", "unk_token")}
    path.write_text(json.dumps(raw))
    assert Processor.from_pretrained(directory).end_id == 1
    assert TextTokenizer(directory).unknown("which 数 digit") == ["数"]


def test_unknown_words(processor):
    assert processor.tokenizer.unknown("which digit is top-left ?") == []
    assert processor.tokenizer.unknown("どの digit 😀 ?") == ["どの", "😀"]
    assert processor.tokenizer.unknown("") == []


def test_padding_and_truncation_that_a_tokenizer_file_asks_for_are_not_done(digits, tmp_path):
    """Saved by someone's training script; transformers does not obey them either."""
    directory = copied(digits, tmp_path)
    path = directory / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    raw["padding"] = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    path.write_text(json.dumps(raw))
    text = "which digit is top-left ?"
    want = TextTokenizer(digits).encode(text)
    np.testing.assert_array_equal(TextTokenizer(directory).encode(text), want)
