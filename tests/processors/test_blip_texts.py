"""BLIP's texts: which tokens begin and end them, what is counted, and where they are cut."""

import io
import json
import shutil

import checkpoints
import numpy as np
import pytest
import toys
from PIL import Image

from instructblip_jax import families
from instructblip_jax.data.evaluation import evaluation_batches
from instructblip_jax.data.record import IMAGE, Medium, Record

TASKS = {
    "captioning": "BlipForConditionalGeneration",
    "question_answering": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
    "pretraining": "BlipForPreTraining",
    "reasoning": "BlipForVisualReasoning",
}


@pytest.fixture
def png():
    """A picture's bytes."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    """Task -> its processor; no weights are read."""
    made = {}
    vision = checkpoints.MINI["vision_config"] | {"image_size": toys.SIZE, "patch_size": 8}
    for task, name in TASKS.items():
        directory = tmp_path_factory.mktemp(task)
        toys.write_processor(directory)
        shutil.copytree(directory / "qformer_tokenizer", directory, dirs_exist_ok=True)
        words = len(json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]) + 1  # [DEC] is added
        sizes = {"num_hidden_layers": 7, "vocab_size": words + 2, "bos_token_id": words}
        raw = checkpoints.blip_json(name, {"vision_config": vision}, **sizes)
        (directory / "config.json").write_text(json.dumps(raw))
        config = families.read_config(directory)
        made[task] = families.family_of(directory).processor(directory, config)
    return made


def test_captions_continue_a_prompt(processors):
    processor = processors["captioning"]
    dec, sep = processor.config.dec_id, processor.config.sep_id
    words = processor.tokenizer.encode("which digit", special=False)
    assert processor.encode("which digit")["input_ids"].tolist() == [dec, *words]
    assert processor.encode("")["input_ids"].tolist() == [dec]
    row = processor.encode("which digit", "Is RED.", training=True)
    answer = processor.tokenizer.encode("is red", special=False)
    assert row["input_ids"].tolist() == [dec, *words, *answer, sep]
    assert row["labels"].tolist() == [-100] * (1 + len(words)) + [*answer, sep]
    assert processor.lengths(row) == (1 + len(words), len(answer) + 1)
    long = processor.encode("which digit", "red " * 60, training=True)["input_ids"]
    # 30 words of a caption are read, and 40 tokens in all
    assert len(long) == min(40, 1 + len(words) + 30 * len(processor.tokenizer.encode("red", special=False)) + 1)
    assert long[-1] == sep
    assert processor.checked(["", "a"], "instructions", 2) == ["", "a"]
    with pytest.raises(ValueError, match=r"responses\[0\] is ''"):
        processor.checked([""], "responses", 1)
    with pytest.raises(ValueError, match="2 images but 1 instructions"):
        processor.checked([""], "instructions", 2)


def test_questions_and_sentences_are_read_behind_enc(processors):
    processor = processors["question_answering"]
    enc, sep = processor.config.enc_id, processor.config.sep_id
    words = processor.tokenizer.encode("is there a 7 ?", special=False)
    assert processor.encode("is there a 7 ?")["input_ids"].tolist() == [enc, *words, sep]
    row = processor.encode("red " * 60, "two", training=True)
    assert len(row["input_ids"]) == 35
    assert row["input_ids"][-1] == sep
    assert row["labels"].tolist() == [*processor.tokenizer.encode("two", special=False), sep]
    judge = processors["reasoning"]
    assert judge.encode("a 7", "True", training=True)["labels"].tolist() == [1]
    assert judge.encode("a 7")["input_ids"][0] == enc
    with pytest.raises(ValueError, match="'maybe' is not a class; the classes are False, True"):
        judge.encode("a 7", "maybe", training=True)
    with pytest.raises(ValueError, match="shows 1 pictures; this form reads 2 a row"):
        judge.media([("image", np.zeros((4, 4, 3), np.uint8))], "row 3")


@pytest.mark.parametrize(("task", "most", "key"), [("pretraining", 30, ""), ("retrieval", 32, "picture")])
def test_pairs(processors, task, most, key):
    processor = processors[task]
    ids = processor.encode("", "Red. " * 60, training=True)["input_ids"]  # 30 words are read
    assert (len(ids), ids[-1]) == (most, processor.config.sep_id)
    assert processor.identity_key == key
    assert len(processor.caption_row("red " * 60, clean=False)) == 35
    assert ("picture" in processor.config.batch(2, 8, 8)) == bool(key)


@pytest.mark.parametrize(
    ("task", "said", "read"),
    [
        ("question_answering", 'Which digit ("red") is it? ', "which digit red is it?"),
        ("reasoning", "One digit; is red.", "one digit is red"),
    ],
)
def test_an_evaluation_reads_what_training_reads(processors, png, task, said, read):
    """The papers clean questions and sentences in both; what users say stays as it is."""
    processor = processors[task]
    media = (Medium(IMAGE, png),) * (2 if task == "reasoning" else 1)
    source = [Record("s/t/0", "s", "t", "vqa", media, {"text": said}, ("True",))]
    (batch,) = evaluation_batches(source, processor, {"s": ("{text}",)}, batch_size=1, instruction_lengths=(24,))
    (ids,) = batch.text["input_ids"][:, : batch.text["attention_mask"].sum()]
    assert ids.tolist() == processor.encode(read)["input_ids"].tolist()
    assert ids.tolist() == processor.encode(said, "True", training=True)["input_ids"].tolist()
    assert ids.tolist() != processor.encode(said)["input_ids"].tolist()
