"""Frozen's benchmarks, compared with their raw files."""

import pytest
from drawing import drawn, raw, rows, skips
from fixtures.writing import put, put_json

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.readers.fast_binding import NAMES
from instructblip_jax.datasets.readers.releases import RELEASES


@pytest.mark.parametrize("name", NAMES)
def test_examples_and_question_are_a_records_parts(world, name):
    for split, examples in (("shots_1_ways_2", 2), ("shots_5_ways_2", 10)):
        want = []
        for n, row in enumerate(raw(world / name / f"{name}_{split}_all_questions.json")):
            texts = [*(row[f"caption_{k}"] for k in range(1, examples + 1)), "This is a"]
            record = Record(
                uid=f"{name}/{split}/{n}",
                dataset=name,
                split=split,
                task="vqa",
                media=(),
                slots={"question": "This is a"},
                answers=(row["answer"],),
                weights=(1.0,),
                references=(row["answer"],),
                instruction="".join(f"<image>{text}" for text in texts),
                question_id=n,
                parts=tuple(part for k, text in enumerate(texts) for part in (k, text)),
            )
            images = [*(row[f"image_{k}"] for k in range(1, examples + 1)), row["question_image"]]
            want.append((record, [f"{name}/{image}" for image in images]))
        assert drawn(name, world, split) == want


def test_rows_that_are_no_records(tmp_path):
    for image in "abq":
        put(tmp_path / f"fast_vqa/{image}.jpg")
    whole = {"image_1": "a.jpg", "caption_1": "A dax.", "image_2": "b.jpg", "caption_2": "A wug.", "answer": "dax"}
    whole |= {"question_image": "q.jpg", "question": "What is it ?"}
    more = {"image_3": "a.jpg", "caption_3": "A dax."}
    without = {field: value for field, value in whole.items() if field != "image_2"}
    table = [whole, whole | more, without, whole | {"answer": ""}, whole | {"question_image": "../secret.jpg"}]
    put_json(tmp_path / "fast_vqa/fast_vqa_shots_1_ways_2_all_questions.json", table)
    assert skips(rows("fast_vqa", tmp_path, "shots_1_ways_2")) == [
        ("fast_vqa_shots_1_ways_2_all_questions.json:[1]", "more examples than the file's name says"),
        ("fast_vqa_shots_1_ways_2_all_questions.json:[2]", "missing field"),
        ("fast_vqa_shots_1_ways_2_all_questions.json:[3]", "empty answer"),
        ("fast_vqa_shots_1_ways_2_all_questions.json:[4]", "path outside the image root"),
    ]
    with pytest.raises(FileNotFoundError, match=r"guided_vqa_shots_\{1,3,5\}_ways_\{2,5\}_all_questions\.json"):
        RELEASES["guided_vqa"].splits(tmp_path / "fast_vqa", ())
