"""Prompts, the choice of examples, and scores over supports; no model."""

import numpy as np
import pytest

from instructblip_jax.data.record import IMAGE, Medium, Record
from instructblip_jax.datasets.few_shot import FORMS
from instructblip_jax.evals import bootstrap
from instructblip_jax.evals.few_shot import result, support
from instructblip_jax.evals.few_shot.answers import Shapes
from instructblip_jax.evals.few_shot.prompts import Example, balanced, misled, own_examples, prompt
from instructblip_jax.evals.suite import EvalSpec

OWN = {"vqav2": ("Question: {question} Short answer:",), "vsr": ("true or false? {statement}",)}
ASKED = {
    "flamingo": "<image>Question: which ? Answer: two<image>Question: what ? Answer:",
    "open_flamingo": "<image>Question:which ? Short answer:two\n<image>Question:what ? Short answer:",
    "idefics": "Instruction: provide an answer to the question. Use the image to answer.\n"
    "Image to use: <image> Question: which ? Answer: two\nImage to use: <image> Question: what ? Answer:",
    "kosmos": "<image>Question: which ? Answer: two<image>Question: what ? Answer:",
    "frozen": "<image>Question: which ? Answer: two<image>Question: what ? Answer:",
}
CAPTIONED = {
    "flamingo": "<image>Output: a cat<image>Output:",
    "open_flamingo": "<image>Output:a cat\n<image>Output:",
    "idefics": "Image to describe: <image> Description: a cat\nImage to describe: <image> Description:",
    "kosmos": "<image>An image of a cat<image>An image of",
    "frozen": "<image> a cat<image>",
}


def record(task: str = "vqa", name: str = "vqav2", answers: tuple[str, ...] = ("two",), **slots: str) -> Record:
    return Record(f"{name}/train/0", name, "train", task, (Medium(IMAGE, b"x"),), slots, answers)


def shown(form: str, example: Record, asked: Record) -> str:
    how = FORMS[form]
    first = Example("e", how.asked(OWN, example, 1) + how.answer, example.answers[0], (3,))
    last = Example("q", how.asked(OWN, asked, 1), "", (7,))
    made = prompt(how, how.begin(asked.task), [first], last)
    assert made.pictures == (3, 7)
    return made.text


@pytest.mark.parametrize("form", ASKED)
def test_questions_in_the_words_of_each_paper(form):
    assert shown(form, record(question="which ?"), record(question="what ?")) == ASKED[form]


@pytest.mark.parametrize("form", CAPTIONED)
def test_captions_in_the_words_of_each_paper(form):
    example = record("caption", "coco_caption", ("a cat",))  # without a slot
    assert shown(form, example, example) == CAPTIONED[form]


def test_other_sets_keep_their_words_behind_the_picture():
    example = record("binary", "vsr", ("yes",), statement="It is.")
    assert shown("open_flamingo", example, example) == ("<image>true or false? It is.yes\n<image>true or false? It is.")
    meme = record("binary", "hateful_memes", ("no",), text='say "hi"')
    assert FORMS["open_flamingo"].asked({}, meme, 1) == (
        "<image>is an image with: 'say \"hi\"' written on it. Is it hateful? Answer:"
    )
    braces = record("vqa", "own", question="{x} ?")
    assert FORMS["llava"].asked({}, braces, 1).startswith("USER: <image>\n{x} ?\n")
    said = record("vqa", "vsr", statement="It is.")  # a question is what its set asks, where there is no such slot
    assert FORMS["frozen"].asked(OWN, said, 1) == "<image>Question: true or false? It is. Answer:"


def test_marks_follow_the_pictures_of_a_record():
    assert FORMS["kosmos"].asked({}, record(question="q ?"), 2) == "<image><image>Question: q ? Answer:"
    assert FORMS["kosmos"].asked({}, record(question="q ?"), 0) == "Question: q ? Answer:"


def test_an_answer_ends_where_another_example_begins():
    cut = FORMS["open_flamingo"].cut
    assert cut("vqa", "two dogs, one cat Question: what ?") == "two dogs"
    assert cut("vqa", "red Short answer: x") == "red"
    assert cut("caption", "a cat, sitting Output: a dog") == "a cat, sitting"
    assert cut("choice", "Question") == "Question"


@pytest.fixture
def examples():
    return [Example(f"e{n}", f"<image>{n} ", name, (n,)) for n, name in enumerate(("dax", "blicket", "dax", "wug"))]


def test_examples_are_repeated_as_a_whole(examples):
    made = prompt(FORMS["frozen"], "Answer with dax or blicket. ", examples[:2], Example("q", "<image>", "", (9,)), 1)
    assert made.text == "Answer with dax or blicket. " + "<image>0 dax<image>1 blicket" * 2 + "<image>"
    assert made.pictures == (0, 1, 0, 1, 9)


def test_wrong_examples_are_wrong_in_one_way(examples):
    assert [one.answer for one in misled(examples, [])] == ["blicket", "wug", "blicket", "dax"]
    assert [one.answer for one in misled(examples[:1], ["dax", "wug", "blicket"])] == ["wug"]
    assert [one.pictures for one in misled(examples, [])] == [one.pictures for one in examples]
    with pytest.raises(ValueError, match="e0: all examples have the answer 'dax'; leave 'wrong' out"):
        misled(examples[:1], ["dax"])


def test_a_text_alone_has_no_picture(examples):
    assert examples[1].without_pictures() == Example("e1", "1 ", "blicket", ())


def test_the_parts_of_a_record_are_its_examples():
    media = tuple(Medium(IMAGE, bytes([n])) for n in range(4))
    parts = ("Name it. ", 0, "a dax", 1, 2, "two wugs", 3, "this is a")
    heading, (first, second, question) = own_examples(Record("u", "s", "test", "vqa", media, {}, ("dax",), parts=parts))
    assert heading == "Name it. "
    assert (first.asked, first.answer, first.pictures) == ("<image>", "a dax", (0,))
    assert (second.asked, second.answer, second.pictures) == ("<image><image>", "two wugs", (1, 2))
    assert (question.asked, question.answer, question.pictures) == ("<image>this is a", "", (3,))
    _, bare = own_examples(Record("u", "s", "test", "vqa", media, {}, ("dax",), parts=(0, "a dax", 3)))
    assert bare[-1].asked == "<image>"


def test_few_examples_have_as_many_of_each_kind_as_can_be(examples):
    order = [2, 0, 1, 3]
    assert [one.uid for one in balanced(examples, 3, order)] == ["e2", "e1", "e3"]
    assert [one.uid for one in balanced(examples, 4, order)] == ["e2", "e0", "e1", "e3"]
    assert [one.uid for one in balanced(examples, 1, range(4))] == ["e0"]
    assert balanced(examples, 0, order) == []


def test_examples_are_drawn_by_seed_and_question_alone():
    own = support.pool(5_000, 100, seed=3)
    assert len(set(own.tolist())) == 100
    assert own.tolist() == sorted(own.tolist())
    assert own.tolist() != support.pool(5_000, 100, seed=4).tolist()
    assert support.pool(50, 0, 1).tolist() == support.pool(50, 100, 1).tolist() == list(range(50))
    thirty = support.drawn(own, 7, 32, seed=3)
    assert set(thirty.tolist()) <= set(own.tolist())
    assert len(set(thirty.tolist())) == 32
    assert support.drawn(own, 7, 4, seed=3).tolist() == thirty[:4].tolist()
    assert support.drawn(own, 8, 32, seed=3).tolist() != thirty.tolist()
    assert support.drawn(own, 7, 32, seed=4).tolist() != thirty.tolist()
    assert sorted(support.drawn(own, 0, 100, 3).tolist()) == own.tolist()


def test_the_most_similar_example_stands_next_to_the_question():
    features = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], np.float32)
    own = np.array([10, 11, 12, 13])
    assert support.similar(own, features, np.array([0, 1], np.float32), 3).tolist() == [13, 12, 11]
    assert support.similar(own, features, np.array([1, 0], np.float32), 1).tolist() == [10]


def test_orders_are_different():
    assert [order.tolist() for order in support.orders(1, 6, 0, 0)] == [[0]]
    assert len({tuple(order) for order in support.orders(3, 6, 0, 0)}) == 6
    found = support.orders(8, 6, 5, 1)
    assert found[0].tolist() == list(range(8))
    assert len({tuple(order) for order in found}) == 6
    assert len(support.orders(0, 6, 0, 0)) == 1


def test_prompts_of_a_number_of_examples_keep_their_shape():
    """A length leaves room, so that few batches need another program."""
    shape = Shapes()
    seen = set()
    for length in (300, 280, 315, 300, 318, 290):
        shape.grow(length, 5)
        seen.add((shape.length, shape.pictures))
    assert seen == {(320, 5)}
    shape.grow(321, 4)
    assert (shape.length, shape.pictures) == (384, 5)


def line(seed: int, right: bool, n: int = 0) -> dict:
    said = "a" if right else "b"
    return {"uid": f"s/test/{n}", "seed": seed, "prediction": said, "wrong": "b", "answers": ["a"]}


def test_a_score_is_the_mean_over_supports():
    lines = [
        line(seed, right, n)
        for seed, rights in enumerate([(1, 1, 0, 0), (1, 1, 1, 1)])
        for n, right in enumerate(rights)
    ]
    curve = result.curve(EvalSpec(), {4: lines, 0: [line(0, n < 1, n) for n in range(4)]})
    assert list(curve) == ["0", "4"]
    assert curve["4"]["values"] == [0.5, 1.0]
    assert (curve["4"]["value"], curve["4"]["seeds"], curve["4"]["count"]) == (0.75, 2, 4)
    assert 0 <= curve["4"]["low"] < 0.75 < curve["4"]["high"] <= 1
    assert curve["4"]["controls"]["wrong"]["value"] == 0
    row = result.judged("held_out", EvalSpec(), {4: lines, 0: lines[:4]}, [], {})
    assert (row.value, row.count, row.interval) == (0.75, 4, (curve["4"]["low"], curve["4"]["high"]))
    (head, _, *body) = result.markdown({"s": row}).splitlines()
    assert "shots" in head
    assert "image blanked" not in head
    assert [cells.split("|")[4].strip() for cells in body] == ["0", "4"]


def test_the_interval_is_over_supports_and_questions():
    """As the plain one over questions where all supports agree; wider where they do not."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, 200).astype(float)

    def of(scores):
        return lambda weights: weights @ scores / weights.sum(axis=1)

    low, high = bootstrap.mean_of_runs([of(right)] * 4, 200)
    assert (low, high) == pytest.approx(bootstrap.mean_interval(right), abs=0.02)
    shifted = [of(np.full(200, value)) for value in (0.2, 0.4, 0.6, 0.8)]
    low, high = bootstrap.mean_of_runs(shifted, 200)
    assert (low, high) == pytest.approx((0.3, 0.7), abs=0.06)
    assert bootstrap.mean_of_runs([of(right[:0])], 0) is None
