"""Caption metrics against several references per picture: CIDEr-D, BLEU-1 to 4, ROUGE-L.

All functions take sentences as lists of words (`ptb.words`): N ``hypotheses``, and N lists of at least one sentence as
``references``. The definitions are those of the COCO caption evaluation, computed in float64 for all images at once.
"""

from collections.abc import Sequence

import numpy as np

from instructblip_jax.evals.ngrams import Grams, grams

Sentence = Sequence[str]
ORDER = 4
SIGMA = 6.0
"""Standard deviation of CIDEr-D's Gaussian penalty for a difference in length."""
BETA = 1.2
"""Weight of recall against precision in ROUGE-L's F-measure."""


def _together(
    hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]
) -> tuple[list[Sentence], np.ndarray, np.ndarray]:
    """All sentences, hypotheses first; the picture index of each [N + R]; the number of references per picture [N].

    Raises ValueError if a picture has no reference or the lengths differ.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} captions for {len(references)} pictures")
    counts = np.array([len(of_one) for of_one in references], np.int64)
    if not counts.all():
        raise ValueError(f"picture {int(counts.argmin())} has no reference caption")
    sentences = [*hypotheses, *(sentence for of_one in references for sentence in of_one)]
    pictures = np.arange(len(hypotheses))
    return sentences, np.concatenate([pictures, np.repeat(pictures, counts)]), counts


def _hypothesis_rows(of: Grams, picture: np.ndarray, count: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Matches each n-gram of a reference with the same n-gram of the hypothesis for the same picture.

    Returns the index of the first row that belongs to a reference, a mask [R] of the reference rows that have a match,
    and the hypothesis rows that match those.
    """
    first = int(np.searchsorted(of.sentence, count))
    keys = (
        of.sentence[:first] * of.kinds + of.gram[:first]
    )  # ascending; a hypothesis's picture index is its sentence index
    wanted = picture[of.sentence[first:]] * of.kinds + of.gram[first:]
    row = np.searchsorted(keys, wanted)
    found = row < first
    found[found] = keys[row[found]] == wanted[found]
    return first, found, row[found]


def cider(hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]) -> np.ndarray:
    """CIDEr-D of each picture, [N] float64 in 0..10; the score of a set is the mean (Vedantam et al. 2015).

    The weight of an n-gram is count · (ln N − ln df), where df is the number of these N pictures with the n-gram in any
    reference; no precomputed document frequencies are used. A single picture therefore scores 0.
    """
    sentences, picture, counts = _together(hypotheses, references)
    number, total = len(hypotheses), len(sentences)
    # The original uses the number of bigrams as the length.
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
    """True if the references of all pictures have the same n-grams, as for a single picture. Then no n-gram
    distinguishes pictures, and CIDEr-D is 0 for any prediction."""

    def ngrams(of_one: Sequence[Sentence]) -> set[tuple[str, ...]]:
        return {
            tuple(sentence[at : at + size])
            for sentence in of_one
            for size in range(1, ORDER + 1)
            for at in range(len(sentence) - size + 1)
        }

    return bool(references) and all(ngrams(of_one) == ngrams(references[0]) for of_one in references[1:])


def bleu_counts(hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]) -> np.ndarray:
    """The counts that BLEU sums over pictures, [N, 10] float64.

    The columns are the matched n-grams of orders 1 to 4, all n-grams of orders 1 to 4, the hypothesis's length, and the
    length of the reference closest to it. The matches of an n-gram are limited to its largest count in one reference;
    of two equally close references the shorter one is taken.
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
    """BLEU-1 to 4, [..., 4], from summed `bleu_counts` [..., 10]; the tiny constants are those of COCO's program."""
    precision = (counts[..., :ORDER] + 1e-15) / (counts[..., ORDER : 2 * ORDER] + 1e-9)
    mean = np.exp(np.cumsum(np.log(precision), axis=-1) / np.arange(1, ORDER + 1))
    ratio = (counts[..., -2] + 1e-15) / (counts[..., -1] + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.maximum(ratio, 1e-300)), 1.0)
    return mean * brevity[..., None]


def _longest_common(places: dict[str, int], length: int, other: Sentence) -> int:
    """Length of the longest common subsequence of two sentences, the first given as word -> bit mask of its positions.

    One row of the usual dynamic programming table is held in one int: a cleared bit marks a place where the row's value
    increases (Hyyrö 2004).
    """
    row = everywhere = (1 << length) - 1
    for word in other:
        if hits := row & places.get(word, 0):
            row = ((row + hits) | (row - hits)) & everywhere
    return length - row.bit_count()


def rouge_l(hypotheses: Sequence[Sentence], references: Sequence[Sequence[Sentence]]) -> np.ndarray:
    """ROUGE-L of each picture, [N] float64 in 0..1: the F-measure of the best precision and the best recall.

    The two may come from different references, as in COCO's program.
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
