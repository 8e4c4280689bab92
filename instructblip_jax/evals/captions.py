"""Captions against several references of the same picture: CIDEr-D, BLEU-1 to 4, ROUGE-L.

All take words (`ptb.words`): ``hypotheses`` [N] sentences, ``references`` [N] lists of at least one sentence. The
definitions are those of the COCO caption evaluation, computed for all pictures at once and in float64.
"""

from collections.abc import Sequence

import numpy as np

from instructblip_jax.evals.ngrams import Grams, grams

Sentence = Sequence[str]
ORDER = 4
SIGMA = 6.0
"""Of CIDEr-D's Gaussian over the difference of lengths."""
BETA = 1.2
"""ROUGE-L's weight of recall."""


def _together(
    hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]
) -> tuple[list[Sentence], np.ndarray, np.ndarray]:
    """All sentences, hypotheses first; the picture of each; the number of references of each picture."""
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} captions for {len(references)} pictures")
    counts = np.array([len(of_one) for of_one in references], np.int64)
    if not counts.all():
        raise ValueError(f"picture {int(counts.argmin())} has no reference caption")
    sentences = [*hypotheses, *(sentence for of_one in references for sentence in of_one)]
    pictures = np.arange(len(hypotheses))
    return sentences, np.concatenate([pictures, np.repeat(pictures, counts)]), counts


def _hypothesis_rows(of: Grams, picture: np.ndarray, count: int) -> tuple[int, np.ndarray, np.ndarray]:
    """For each n-gram of a reference, the row of the same n-gram of its picture's hypothesis.

    Returns where the references' rows begin, which of them have one [R] bool, and the rows of those that have.
    """
    first = int(np.searchsorted(of.sentence, count))
    keys = of.sentence[:first] * of.kinds + of.gram[:first]  # ascending: of hypotheses, the picture is the sentence
    wanted = picture[of.sentence[first:]] * of.kinds + of.gram[first:]
    row = np.searchsorted(keys, wanted)
    found = row < first
    found[found] = keys[row[found]] == wanted[found]
    return first, found, row[found]


def cider(hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]) -> np.ndarray:
    """CIDEr-D of each picture, [N] float64 in 0..10; the score of a set is the mean (Vedantam et al. 2015).

    An n-gram weighs count · (ln N − ln df), df being the number of these N pictures that have it in any reference: one
    picture alone scores 0. No file of document frequencies is read.
    """
    sentences, picture, counts = _together(hypotheses, references)
    number, total = len(hypotheses), len(sentences)
    # The original takes the number of bigrams for the length.
    length = np.array([max(len(sentence) - 1, 0) for sentence in sentences])
    gauss = np.exp(-((length - length[picture]) ** 2) / (2 * SIGMA**2))
    scores = np.zeros(number)
    for of in grams(sentences, ORDER):
        first, found, row = _hypothesis_rows(of, picture, number)
        in_picture = np.unique(picture[of.sentence[first:]] * max(of.kinds, 1) + of.gram[first:])
        frequency = np.bincount(in_picture % max(of.kinds, 1), minlength=of.kinds)
        weight = of.count * (np.log(float(max(number, 1))) - np.log(np.maximum(1.0, frequency)))[of.gram]
        norm = np.sqrt(np.bincount(of.sentence, weight**2, minlength=total))
        weight_r, sentence_r = weight[first:][found], of.sentence[first:][found]
        product = np.bincount(sentence_r, np.minimum(weight[row], weight_r) * weight_r, minlength=total)
        norms = norm * norm[picture]
        similarity = np.divide(product, norms, out=np.zeros(total), where=norms > 0) * gauss
        scores += np.bincount(picture[number:], similarity[number:], minlength=number)
    return 10 * scores / (ORDER * counts)


def alike(references: Sequence[Sequence[Sentence]]) -> bool:
    """True if the references of all pictures hold the same n-grams, as with a single picture. No n-gram then tells
    pictures apart, and CIDEr-D is 0 for any prediction."""

    def held(of_one: Sequence[Sentence]) -> set[tuple[str, ...]]:
        return {
            tuple(sentence[at : at + size])
            for sentence in of_one
            for size in range(1, ORDER + 1)
            for at in range(len(sentence) - size + 1)
        }

    return bool(references) and all(held(of_one) == held(references[0]) for of_one in references[1:])


def bleu_counts(hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]) -> np.ndarray:
    """What BLEU adds up, [N, 10] float64: matched n-grams of orders 1 to 4, n-grams there, length, closest reference's.

    An n-gram matches at most as often as it is in the one reference that has it most often; of two closest references
    the shorter one counts.
    """
    sentences, picture, _ = _together(hypotheses, references)
    number = len(hypotheses)
    length = np.array([len(sentence) for sentence in sentences])
    out = np.zeros((number, 2 * ORDER + 2))
    for n, of in enumerate(grams(sentences, ORDER)):
        first, found, row = _hypothesis_rows(of, picture, number)
        most = np.zeros(first)
        np.maximum.at(most, row, of.count[first:][found])
        out[:, n] = np.bincount(of.sentence[:first], np.minimum(of.count[:first], most), minlength=number)
        out[:, ORDER + n] = np.maximum(length[:number] - n, 0)
    out[:, -2] = length[:number]
    difference = np.abs(length[number:] - length[picture[number:]])
    order = np.lexsort((length[number:], difference, picture[number:]))
    _, closest = np.unique(picture[number:][order], return_index=True)
    out[:, -1] = length[number:][order][closest]
    return out


def bleu(counts: np.ndarray) -> np.ndarray:
    """BLEU-1 to 4, [..., 4], of summed `bleu_counts` [..., 10]; the tiny numbers are those of COCO's program."""
    precision = (counts[..., :ORDER] + 1e-15) / (counts[..., ORDER : 2 * ORDER] + 1e-9)
    mean = np.exp(np.cumsum(np.log(precision), axis=-1) / np.arange(1, ORDER + 1))
    ratio = (counts[..., -2] + 1e-15) / (counts[..., -1] + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.maximum(ratio, 1e-300)), 1.0)
    return mean * brevity[..., None]


def _longest_common(places: dict[str, int], length: int, other: Sentence) -> int:
    """Length of the longest common subsequence with a sentence given as word -> bits of its places.

    One row of the usual table is one number: a bit is cleared where the row's value goes up (Hyyrö 2004).
    """
    row = everywhere = (1 << length) - 1
    for word in other:
        if hits := row & places.get(word, 0):
            row = ((row + hits) | (row - hits)) & everywhere
    return length - row.bit_count()


def rouge_l(hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]) -> np.ndarray:
    """ROUGE-L of each picture, [N] float64 in 0..1: the F-measure of the best precision and the best recall.

    These two may come from different references, as in COCO's program.
    """
    _together(hypotheses, references)
    scores = np.zeros(len(hypotheses))
    for n, (hypothesis, of_one) in enumerate(zip(hypotheses, references, strict=True)):
        places: dict[str, int] = {}
        for place, word in enumerate(hypothesis):
            places[word] = places.get(word, 0) | 1 << place
        common = [_longest_common(places, len(hypothesis), reference) for reference in of_one]
        if best := max(common):
            precision = best / len(hypothesis)
            recall = max(c / len(r) for c, r in zip(common, of_one, strict=True) if r)
            scores[n] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores
