"""BLIP's texts: which tokens begin and end them, what is counted, and where they are cut."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
import toys

from instructblip_jax import families

TASKS = {
    "captioning": "BlipForConditionalGeneration",
    "question_answering": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
    "pretraining": "BlipForPreTraining",
    "reasoning": "BlipForVisualReasoning",
}


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
    with pytest.raises(ValueError, match="'maybe' is no class; the classes are False, True"):
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
