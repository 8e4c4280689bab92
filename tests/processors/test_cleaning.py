"""Captions and questions are cleaned as ALBEF, BLIP and LAVIS do."""

import pytest

from instructblip_jax.processors.cleaning import ALBEF, BLIP, BLIP2


@pytest.mark.parametrize(
    ("text", "albef", "blip"),
    [
        ('A dog, "big"; it\'s (brown)!', "a dog big its brown", "a dog, big it's brown"),
        ("Well-known and/or so? ~#1*", "well known and or so 1", "well-known and/or so? 1"),
        ("a <PERSON> with <person>s", "a person with persons", "a <person> with <person>s"),
        ("end.\n", "end", "end"),  # the mark's space and the line end are a run: one space, which is stripped
        ("  two  \n\n words \n", "two words", "two words"),
        ("one\nline\tand", "one\nline\tand", "one\nline\tand"),  # no run, and not at the end
        ("\ttab", "\ttab", "\ttab"),
        ("a.b . c", "ab c", "a b c"),
        ("no\u00a0 break", "no break", "no break"),
        ("...!!\n", "", ""),
        ("", "", ""),
        ("ÉTÉ à/la", "été à la", "été à/la"),
    ],
)
def test_captions(text, albef, blip):
    assert ALBEF.caption(text) == albef
    assert BLIP.caption(text) == BLIP2.caption(text) == blip


@pytest.mark.parametrize(
    ("text", "albef", "blip"),
    [
        ("What is it?", "what is it", "what is it?"),
        ("Is it a well-known  (red) one?  ", "is it a well known  red one", "is it a well-known  red one?"),
        ("  Why/how, then;", "  why how then", "  why/how, then"),
        ("<person>?", "<person>", "<person>?"),
        ("a.b", "ab", "ab"),  # deleted, where BLIP's captions get a space
        ("?!", "", "?"),
        ("line?\n", "line\n", "line?\n"),
    ],
)
def test_questions(text, albef, blip):
    for training in (False, True):
        assert ALBEF.question(text, training=training) == albef
        assert BLIP.question(text, training=training) == blip


def test_the_most_words():
    text = " ".join(map(str, range(60)))
    assert [len(rules.caption(text).split()) for rules in (ALBEF, BLIP, BLIP2)] == [30, 30, 50]
    assert ALBEF.caption(text) == " ".join(map(str, range(30)))
    lengths = [
        [len(rules.question(text, training=is_on).split()) for is_on in (True, False)] for rules in (ALBEF, BLIP)
    ]
    assert lengths == [[30, 50], [50, 50]]
    assert BLIP.question("a  " * 40, training=True).count("a") == 25  # every space ends a word
