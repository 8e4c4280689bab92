"""Metrics of short answers against goldens, and VQA accuracy against a second, literal implementation."""

import functools
import re
from fractions import Fraction

import numpy as np
import pytest

from instructblip_jax.evals.vqa import (
    CONTRACTIONS,
    VARIANTS,
    aokvqa_direct,
    ivqa_soft,
    normalise,
    normalise_evalai,
    normalised_match,
    plain_match,
    vqa_accuracy,
)

GOLDENS = """
The Two dogs. -> 2 dogs
1,000 -> 1000
1,000 - 2,000 -> 1000 2000
red/blue -> red blue
red / blue -> red blue
dont know -> don't know
U.S.A. -> usa
3.5 m. -> 3.5 m
it's 5 o'clock? -> it's 5 o'clock | it 's 5 o'clock
a ->
None -> 0
10:30 -> 10:30
well-known -> well known
t-shirt, hat -> t shirt hat
Mr. Smith's car -> mr smith's car | mr smith 's car
no, thanks -> no thanks
$5.00 -> $5.00
semi;colon -> semi colon
Im here -> im here
""".strip().splitlines()


@pytest.mark.parametrize("line", GOLDENS)
def test_texts_that_the_original_programs_were_run_on(line):
    text, wants = (part.strip() for part in line.split("->"))
    lavis, evalai = wants.split(" | ") if "|" in wants else (wants, wants)
    assert normalise(text) == lavis
    assert normalise_evalai(text) == evalai


def test_line_ends_are_space_and_many_full_stops_are_not_all_removed():
    assert normalise("\tone\ndog \n") == "1 dog"
    assert normalise("x" + 40 * ".") == "x" + 8 * "."  # the original's bound


def test_the_contractions():
    """Every row restores one apostrophe, except one that removes one; the table's capitalised rows never match."""
    assert len(CONTRACTIONS) == 114
    for text, want in CONTRACTIONS.items():
        if text != "somebody'd":
            assert (len(want), want.replace("'", "")) == (len(text) + 1, text.replace("'", ""))
    pairs = "aint ain't, y'allll y'all'll, yall'd've y'all'd've, ow's'at 'ow's'at, twas 'twas, hed've he'd've"
    for pair in pairs.split(", "):
        assert CONTRACTIONS[pair.split()[0]] == pair.split()[1]
    assert normalise("somebody'd lets shes Im Ive ill") == "somebodyd lets shes im ive ill"


@pytest.mark.parametrize("variant", VARIANTS)
def test_how_many_of_ten_agree(variant):
    for equal, want in enumerate([0.0, 0.3, 0.6, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]):
        answers = ["red"] * equal + [f"other {n}" for n in range(10 - equal)]
        assert vqa_accuracy("red", answers, variant) == want


def test_the_variants_differ_where_all_agree():
    ten = ["yes"] * 10
    assert [vqa_accuracy("Yes", ten, variant) for variant in ("official", "lavis", "evalai")] == [0.0, 1.0, 1.0]
    assert vqa_accuracy(" yes\n", ten) == 1.0
    assert vqa_accuracy("Yes", [*ten[1:], "no"]) == 1.0
    big = ["The Dog"] * 10
    assert [vqa_accuracy("the dog", big, variant) for variant in ("official", "lavis", "evalai")] == [0.0, 0.0, 1.0]
    mixed = ["The Dog"] * 9 + ["cat"]
    assert [vqa_accuracy("the dog", mixed, variant) for variant in ("official", "lavis", "evalai")] == [1.0, 0.0, 1.0]
    dots = ["dog!"] * 9 + ["cat"]
    assert vqa_accuracy("dog", dots, "lavis") == 0.0  # a mark inside becomes a space, and there is no strip
    assert vqa_accuracy("it's", ["it 's"] * 9 + ["x"], "evalai") == 1.0


def test_few_answers():
    assert vqa_accuracy("yes", ["yes"]) == 1.0
    assert vqa_accuracy("no", ["yes"]) == 0.0
    assert vqa_accuracy("yes", ["yes", "no"]) == pytest.approx(1 / 6)
    assert vqa_accuracy("yes", ["yes", "yes"]) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no answers"):
        vqa_accuracy("yes", [])
    with pytest.raises(KeyError):
        vqa_accuracy("yes", ["yes"], "mine")


@functools.cache
def literal_punctuation(text):
    """Step 2 as it is defined: mark by mark, looking at the original text."""
    out = text
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        spaced = False
        for at, character in enumerate(text):
            beside = (text[at - 1] if at else "") + text[at + 1 : at + 2]
            spaced = spaced or (character == mark and " " in beside)
        comma = any(re.match("[0-9],[0-9]", text[at:]) for at in range(len(text)))
        out = "".join(("" if spaced or comma else " ") if character == mark else character for character in out)
    kept, removed = "", 0
    for at, character in enumerate(out):
        if character == "." and not out[at + 1 : at + 2].isdecimal() and removed < 32:
            removed += 1
        else:
            kept += character
    return kept


def literal_words(text):
    """Step 3, word by word."""
    numbers = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
    numbers |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
    out = []
    for word in text.lower().split():
        digit = numbers.get(word, word)
        if digit not in ("a", "an", "the"):
            out.append(CONTRACTIONS.get(digit, digit))
    return " ".join(out)


def literal_accuracy(prediction, answers, variant):
    """Leave-one-out by index, in fractions."""
    space = lambda text: text.replace("\n", " ").replace("\t", " ").strip()
    full = lambda text: literal_words(literal_punctuation(space(text)))
    if variant == "evalai":
        mmf = lambda text: full(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())
        prediction, answers = mmf(prediction), [mmf(answer) for answer in answers]
    elif variant == "lavis":
        prediction = full(prediction)
        if len(set(answers)) > 1:
            answers = [literal_punctuation(answer) for answer in answers]
    else:
        prediction, answers = space(prediction), [space(answer) for answer in answers]
        if len(set(answers)) > 1:
            prediction, answers = full(prediction), [full(answer) for answer in answers]
    if len(answers) == 1:
        return float(prediction == answers[0])
    values = []
    for left_out in range(len(answers)):
        others = [answer for index, answer in enumerate(answers) if index != left_out]
        values.append(min(Fraction(1), Fraction(sum(other == prediction for other in others), 3)))
    return float(sum(values) / len(values))


PIECES = """
dog Dog the The a an one Two none ten 1,000 2,000 3.5 .5 10:30 dont don't wont somebody'd im I've let's it's its y'allll
red/blue t-shirt U.S.A. $5 50% yes yes. no no, ? ! , - -- ( ) [x] {y} "q" `z` a_b x@y & # * = + \\ ; : naïve 日本 ...
"""


def random_text(rng):
    count = int(rng.integers(0, 5))
    joins = rng.choice([" ", " ", " ", "", "  ", "\n", "\t", ", "], count)
    return "".join(str(rng.choice(PIECES.split())) + str(join) for join in joins)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_thousand_random_questions_exactly_as_the_definition_says(variant):
    rng = np.random.default_rng(6)
    scores = []
    for _ in range(1000):
        pool = [random_text(rng) for _ in range(int(rng.integers(1, 4)))]
        answers = [pool[at] for at in rng.integers(0, len(pool), int(rng.choice([1, 2, 5, 10, 10, 10])))]
        # As an answer, or nearly.
        prediction = [pool[0], pool[0].upper(), f"the {pool[0]}", pool[0].replace("'", ""), random_text(rng)]
        said = prediction[int(rng.integers(len(prediction)))]
        got = vqa_accuracy(said, answers, variant)
        assert got == literal_accuracy(said, answers, variant), (said, answers)
        scores.append(got)
    assert 0.1 < np.mean(scores) < 0.9  # neither all nor nothing matches
    assert len(set(scores)) > 5


def test_the_other_scores_of_short_answers():
    assert [aokvqa_direct("cat", ["cat"] * n + ["dog"] * (10 - n)) for n in range(5)] == [0, 1 / 3, 2 / 3, 1, 1]
    assert aokvqa_direct("Cat", ["cat"] * 10) == 0
    five = ["knife", "Knife ", "spoon", "fork", "pan"]
    assert [ivqa_soft(said, five) for said in (" KNIFE", "spoon", "bowl")] == [1.0, 0.5, 0.0]
    assert normalised_match("The two dogs.", ["2 dogs"]) == 1.0
    assert normalised_match("dog", ["dogs"]) == 0.0
    assert plain_match("dog", ["dog"]) == 1.0
    assert plain_match("Dog", ["dog"]) == 0.0
