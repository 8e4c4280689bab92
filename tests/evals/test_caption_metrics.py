"""CIDEr-D, BLEU and ROUGE-L against goldens, and against a second, literal implementation of their definitions."""

import math
import time
from collections import Counter

import numpy as np
import pytest

from instructblip_jax.evals.captions import bleu, bleu_counts, cider, rouge_l
from instructblip_jax.evals.ptb import words

REFERENCES = [
    ["a red kite over a wall", "the kite flies over the old wall", "red kite above stone wall"],
    ["two cups on a table", "a table with two blue cups", "cups are on the table"],
    ["a boat near the pier", "the small boat lies at the pier", "boat by a wooden pier"],
]
HYPOTHESES = ["a red kite over the wall", "two blue cups on a wooden table", "a dog"]


def split(hypotheses, references):
    return [words(text) for text in hypotheses], [[words(text) for text in of_one] for of_one in references]


def test_cider_as_the_original_program_gives_it():
    scores = cider(*split(HYPOTHESES, REFERENCES))
    assert scores == pytest.approx([3.46420633, 2.73578548, 0.0], abs=1e-8)
    assert scores.mean() == pytest.approx(2.0666639395, abs=1e-10)
    scores = cider(*split([*HYPOTHESES[:2], "boat"], REFERENCES))
    assert scores[2] == pytest.approx(0.94493618, abs=1e-8)
    assert scores.mean() == pytest.approx(2.3816426655, abs=1e-10)
    assert scores.dtype == np.float64


def test_bleu_and_rouge_as_the_original_program_gives_them():
    case = split(HYPOTHESES, REFERENCES)
    got = bleu(bleu_counts(*case).sum(0))
    # 13 of 15 words are there, and 17 were to be said.
    assert got[0] == pytest.approx(13 / 15 * math.exp(1 - 17 / 15), abs=1e-9)
    assert got[1:] == pytest.approx([0.6652340739, 0.5562715399, 0.3830135496], abs=1e-9)
    assert rouge_l(*case) == pytest.approx([0.83333, 0.85915, 0.26522], abs=1e-5)
    assert rouge_l(*case).mean() == pytest.approx(0.6525685514, abs=1e-10)


def test_the_ends_of_the_scale():
    copies = [f"w{n} x{n} y{n} z{n} end{n}" for n in range(4)]
    assert cider(*split(copies, [[text] for text in copies])) == pytest.approx([10.0] * 4)
    assert cider(*split(copies[:1], [copies[:1]])) == 0.0  # ln 1: one picture alone tells nothing
    short = cider(*split(["p q", *copies], [["p q"], *[[text] for text in copies]]))
    assert short[0] == pytest.approx(5.0)  # nothing for the missing orders
    assert cider(*split(["", *copies], [["p q"], *[[text] for text in copies]]))[0] == 0.0
    assert cider(*split(["...", "a b"], [["x"], ["..."]])).tolist() == [0.0, 0.0]
    assert cider([], []).shape == (0,)
    assert rouge_l(*split(copies, [[text] for text in copies])) == pytest.approx([1.0] * 4)
    assert rouge_l(*split(["", "a"], [["x"], [""]])).tolist() == [0.0, 0.0]
    assert bleu(bleu_counts(*split(copies, [[text] for text in copies])).sum(0)) == pytest.approx([1.0] * 4)
    assert bleu(bleu_counts(*split([""], [["x"]])).sum(0)) == pytest.approx([0.0] * 4)


def test_every_picture_needs_a_caption_and_one_hypothesis():
    for metric in (cider, bleu_counts, rouge_l):
        with pytest.raises(ValueError, match="picture 1 has no reference"):
            metric([["a"], ["a"]], [[["a"]], []])
        with pytest.raises(ValueError, match="1 captions for 2 pictures"):
            metric([["a"]], [[["a"]], [["a"]]])


def test_repeated_words_and_lengths_count():
    """Clipping: repeating a word more often than a reference does not help; a wrong length costs."""
    others = [[["u", "v", "w", "x"]], [["k", "l"]]]
    reference = [["a", "b", "c", "d"]]
    once, twice = (cider([list(said), ["u"], ["k"]], [reference, *others])[0] for said in ("abcd", "ababab"))
    assert once == pytest.approx(10.0)
    assert 0 < twice < once / 2
    longer = cider([["a", "b", "c", "d", *"pqrst"], ["u"], ["k"]], [[["a", "b", "c", "d"]], *others])[0]
    assert 0 < longer < once


# The definitions once more, picture by picture


def count_grams(sentence, n):
    return Counter(tuple(sentence[at : at + n]) for at in range(len(sentence) - n + 1))


def literal_cider(hypotheses, references):
    number, scores = len(hypotheses), []
    frequency = Counter()
    for of_one in references:
        frequency.update({gram for sentence in of_one for n in range(1, 5) for gram in count_grams(sentence, n)})

    def weigh(sentence, n):
        rarity = lambda gram: math.log(number) - math.log(max(1, frequency[gram]))
        return {gram: count * rarity(gram) for gram, count in count_grams(sentence, n).items()}

    norm = lambda weights: math.sqrt(sum(weight**2 for weight in weights.values()))
    for hypothesis, of_one in zip(hypotheses, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            h = weigh(hypothesis, n)
            for reference in of_one:
                r = weigh(reference, n)
                similarity = sum(min(weight, r[gram]) * r[gram] for gram, weight in h.items() if gram in r)
                if norm(h) and norm(r):
                    similarity /= norm(h) * norm(r)
                apart = max(0, len(hypothesis) - 1) - max(0, len(reference) - 1)
                total += similarity * math.exp(-(apart**2) / 72)
        scores.append(10 * total / 4 / len(of_one))
    return scores


def literal_bleu(hypotheses, references):
    out, product = [], 1.0
    length = sum(map(len, hypotheses))
    pairs = zip(hypotheses, references, strict=True)
    closest = sum(min((abs(len(r) - len(h)), len(r)) for r in of_one)[1] for h, of_one in pairs)
    ratio = (length + 1e-15) / (closest + 1e-9)
    for n in range(1, 5):
        right = there = 0
        for hypothesis, of_one in zip(hypotheses, references, strict=True):
            most = Counter()
            for reference in of_one:
                most |= count_grams(reference, n)
            right += (count_grams(hypothesis, n) & most).total()
            there += max(0, len(hypothesis) - n + 1)
        product *= (right + 1e-15) / (there + 1e-9)
        out.append(product ** (1 / n) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1))
    return out


def literal_rouge(hypothesis, of_one):
    def common(a, b):
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i in range(len(a)):
            for j in range(len(b)):
                table[i + 1][j + 1] = table[i][j] + 1 if a[i] == b[j] else max(table[i][j + 1], table[i + 1][j])
        return table[-1][-1]

    longest = [common(hypothesis, reference) for reference in of_one]
    if not max(longest):
        return 0.0
    precision = max(n / len(hypothesis) for n in longest)
    recall = max(n / len(reference) for n, reference in zip(longest, of_one, strict=True) if reference)
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


VOCABULARY = """
a the man's dog isn't here, cat. two well-known on in red U.S. don't STOP!!! 3.5 ... - (x) o'clock
"""


def random_case(rng):
    """A few pictures about few words; some captions are empty, one word, or copies of a reference."""

    def caption():
        return " ".join(rng.choice(VOCABULARY.split(), rng.integers(0, 12)))

    references = [[caption() for _ in range(rng.integers(1, 5))] for _ in range(rng.integers(1, 6))]
    return [caption() if rng.random() < 0.7 else str(rng.choice(of_one)) for of_one in references], references


def test_a_thousand_random_sets_as_the_definitions_say():
    rng, corpora = np.random.default_rng(6), []
    for _ in range(1000):
        case = split(*random_case(rng))
        scores = cider(*case)
        assert np.allclose(scores, literal_cider(*case), rtol=0, atol=1e-9), case
        corpora.append(scores.mean())
        assert np.allclose(bleu(bleu_counts(*case).sum(0)), literal_bleu(*case), rtol=0, atol=1e-9), case
        literal = [literal_rouge(said, of_one) for said, of_one in zip(*case, strict=True)]
        assert np.allclose(rouge_l(*case), literal, rtol=0, atol=1e-12), case
    assert 0.5 < np.mean(corpora) < 9.5


def test_a_set_like_nocaps_takes_seconds():
    """1,500 pictures with ten references each, a third of NoCaps, from text to score."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{n}" for n in range(5000)])
    chances = 1 / np.arange(1, 5001)
    drawn = rng.choice(vocabulary, (1500, 11, 11), p=chances / chances.sum())
    texts = [[" ".join(caption) + "." for caption in of_one] for of_one in drawn]
    started = time.process_time()
    scores = cider(*split([of_one[0] for of_one in texts], [of_one[1:] for of_one in texts]))
    seconds = time.process_time() - started
    assert scores.shape == (1500,)
    assert seconds < 15
