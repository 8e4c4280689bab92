"""ALBEF's texts: no [SEP] behind what is read, one behind what is written, and how much is read in training."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
import toys

from instructblip_jax import families
from instructblip_jax.convert.layouts.albef import TASKS


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    """Task, or "port" for retrieval as LAVIS has it -> its processor; no weights are read."""
    made = {}
    vision = checkpoints.MINI["vision_config"] | {"image_size": toys.SIZE, "patch_size": 8}
    for task in (*TASKS, "port"):
        directory = tmp_path_factory.mktemp(task)
        toys.write_processor(directory)
        shutil.copytree(directory / "qformer_tokenizer", directory, dirs_exist_ok=True)
        raw = checkpoints.albef_json(TASKS.get(task, TASKS["retrieval"]), {"vision_config": vision}, vocab_size=400)
        (directory / "config.json").write_text(json.dumps(raw | {"add_sep": task == "port"}))
        config = families.read_config(directory)
        made[task] = families.family_of(directory).processor(directory, config)
    return made


@pytest.mark.parametrize(("task", "most", "key"), [("pretraining", 25, ""), ("retrieval", 30, "picture")])
def test_pairs(processors, task, most, key):
    processor = processors[task]
    config = processor.config
    words = processor.tokenizer.encode("which digit is red", special=False)
    ids = processor.encode("", "Which digit: is (red)?", training=True)["input_ids"]
    assert ids.tolist() == [config.cls_id, *words]
    assert processor.caption_row("Which digit: is (red)?", clean=True).tolist() == ids.tolist()
    assert len(processor.caption_row("Which digit: is (red)?", clean=False)) > len(ids)  # users' texts stay as they are
    assert len(processor.encode("", "red " * 60, training=True)["input_ids"]) == most
    assert len(processor.caption_row("red " * 60, clean=False)) == 30
    assert processor.identity_key == key
    assert processor.batch([{"input_ids": ids}], 8, 8)["attention_mask"].sum() == len(ids)


def test_the_port_ends_its_texts(processors):
    processor = processors["port"]
    long = processor.caption_row("red " * 60, clean=False)
    assert (len(long), long[-1]) == (30, processor.config.sep_id)


def test_questions_and_answers(processors):
    processor = processors["question_answering"]
    cls, sep = processor.config.cls_id, processor.config.sep_id
    row = processor.encode("Is there a 7?", "two", training=True)
    assert row["input_ids"].tolist() == [cls, *processor.tokenizer.encode("is there a 7", special=False)]
    assert row["labels"].tolist() == [*processor.tokenizer.encode("two", special=False), sep]
    assert processor.lengths(row) == (len(row["input_ids"]), len(row["labels"]))
    asked = processor.encode("Is there a 7?")["input_ids"]
    assert asked.tolist() == [cls, *processor.tokenizer.encode("Is there a 7?", special=False)]
    assert processor.encode(processor.asked("Is there a 7?"))["input_ids"].tolist() == row["input_ids"].tolist()
    assert len(processor.asked("red " * 60).split()) == 50  # 30 words of it in training
    assert len(processor.encode("red " * 60, training=True)["input_ids"]) == 25
    assert len(processor.encode("red " * 60)["input_ids"]) == 48  # as many as there are positions
    assert processor.decode(np.array([[*row["labels"], 7]])) == ["two"]


def test_sentences_and_classes(processors):
    pair, one = processors["reasoning"], processors["entailment"]
    assert pair.encode("a 7", "True", training=True)["labels"].tolist() == [1]
    assert one.encode("a 7", "contradiction", training=True)["labels"].tolist() == [0]
    assert one.asked("A man/woman, well-dressed.") == "a man woman well dressed"
    with pytest.raises(ValueError, match="'maybe' is not a class; the classes are contradiction, neutral, entailment"):
        one.response("maybe")
    picture = np.zeros((4, 4, 3), np.uint8)
    batch = pair([[picture, picture]], ["a 7"], ["False"])
    assert batch["pixel_values"].shape == (1, 2, toys.SIZE, toys.SIZE, 3)
    assert batch["labels"].tolist() == [[0]]
    with pytest.raises(ValueError, match="shows 2 pictures; this form reads 1 a row"):
        one([[picture, picture]], ["a 7"])


def test_token_ids_are_the_tokenizers(processors, tmp_path):
    toys.write_processor(tmp_path)
    shutil.copytree(tmp_path / "qformer_tokenizer", tmp_path, dirs_exist_ok=True)
    vision = checkpoints.MINI["vision_config"] | {"image_size": toys.SIZE, "patch_size": 8}
    raw = checkpoints.albef_json(sizes={"vision_config": vision}, vocab_size=400, mask_token_id=9)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = families.read_config(tmp_path)
    with pytest.raises(
        ValueError, match=r"config\.json: the token with the id 9 is '.*' in tokenizer\.json, not \[MASK\]"
    ):
        families.ALBEF.processor(tmp_path, config)
