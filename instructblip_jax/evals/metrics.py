"""The table of metrics by name. Each metric is computed from all (prediction, reference) pairs of a set, without a
model."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from instructblip_jax.datasets.readers.scienceqa_reasons import CLASSES
from instructblip_jax.evals import captions, lettered, named, ptb, ranking, sides, vqa
from instructblip_jax.evals.pairs import GROUPS, Pair, Prediction, Reference, Result


def _mean(scores: npt.ArrayLike, **details: float | None) -> Result:
    values = np.asarray(scores, np.float64)
    return Result(float(values.mean()) if len(values) else None, len(values), values, details)


def _text(prediction: Prediction, reference: Reference) -> str:
    """The predicted text, or else the text of the candidate with the best score. Raises ValueError if there is
    neither."""
    if prediction.text is not None:
        return prediction.text
    if not reference.candidates:
        raise ValueError(f"{reference.uid}: the prediction has no text")
    return reference.candidates[ranking.choice(_scores(prediction, reference))]


def _scores(prediction: Prediction, reference: Reference) -> tuple[float, ...]:
    """The predicted scores, one per candidate. Raises ValueError if there are none or their number differs."""
    if not prediction.scores or len(prediction.scores) != (len(reference.candidates) or len(prediction.scores)):
        there = f" for {len(reference.candidates)} candidates" if reference.candidates else ""
        raise ValueError(f"{reference.uid}: {len(prediction.scores)} scores{there}")
    return prediction.scores


def _label(reference: Reference) -> int:
    label = reference.label
    if label is None:
        raise ValueError(f"{reference.uid}: the reference has no label")
    if reference.candidates and not 0 <= label < len(reference.candidates):
        raise ValueError(f"{reference.uid}: candidate {label} of {len(reference.candidates)}")
    return label


def _answers(reference: Reference) -> tuple[str, ...]:
    if not reference.answers:
        raise ValueError(f"{reference.uid}: the reference has no answers")
    return reference.answers


def _of_texts(score: Callable[[str, Sequence[str]], float], pairs: Sequence[Pair]) -> Result:
    """The mean of ``score`` (predicted text, reference answers) over pairs; a missing prediction scores 0."""
    return _mean([score(_text(prediction, ref), _answers(ref)) if prediction else 0.0 for prediction, ref in pairs])


def _gqa(pairs: Sequence[Pair]) -> Result:
    plain = _of_texts(vqa.plain_match, pairs).value
    return dataclasses.replace(_of_texts(vqa.normalised_match, pairs), details={"letter_by_letter": plain})


def _aokvqa(pairs: Sequence[Pair]) -> Result:
    kept = [pair for pair in pairs if not pair[1].difficult]
    return dataclasses.replace(
        _of_texts(vqa.aokvqa_direct, kept), details={"difficult_left_out": float(len(pairs) - len(kept))}
    )


def _sentences(pairs: Sequence[Pair]) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Hypotheses and references as lists of words; a missing prediction is an empty caption."""
    hypotheses = [ptb.words(_text(prediction, ref)) if prediction else [] for prediction, ref in pairs]
    return hypotheses, [[ptb.words(caption) for caption in _answers(ref)] for _, ref in pairs]


def _cider(pairs: Sequence[Pair]) -> Result:
    hypotheses, references = _sentences(pairs)
    result = _mean(captions.cider(hypotheses, references))
    if not captions.alike(references):
        return result
    what = "one picture" if len(pairs) == 1 else "pictures whose references are alike"
    reason = f"CIDEr of {what} is 0 for any prediction: document frequencies need several pictures that differ"
    return dataclasses.replace(result, reason=reason)


def _rouge(pairs: Sequence[Pair]) -> Result:
    return _mean(captions.rouge_l(*_sentences(pairs)))


def _bleu(order: int, pairs: Sequence[Pair]) -> Result:
    counts = captions.bleu_counts(*_sentences(pairs))
    values = captions.bleu(counts.sum(0))
    return Result(
        value=float(values[order - 1]) if len(pairs) else None,
        count=len(pairs),
        details={f"bleu{n}": float(values[n - 1]) for n in range(1, order)},
        resampled=lambda weights: captions.bleu(weights @ counts)[:, order - 1],
    )


def _mrr(pairs: Sequence[Pair]) -> Result:
    """The mean reciprocal rank; a missing prediction has the last rank and a reciprocal rank of 0."""
    ranks: list[float] = []
    gains: list[float | None] = []
    for prediction, ref in pairs:
        ranks.append(ranking.rank(_scores(prediction, ref), _label(ref)) if prediction else np.inf)
        if any(ref.relevance):
            gains.append(ranking.ndcg(_scores(prediction, ref), ref.relevance) if prediction else 0.0)
    at = np.array(ranks)
    last = [len(ref.candidates) or np.nan for _, ref in pairs]
    return _mean(
        1 / at,
        **{f"recall@{k}": float((at <= k).mean()) for k in (1, 5, 10) if len(at)},
        mean_rank=_or_none(np.where(np.isinf(at), last, at).mean()) if len(at) else None,
        ndcg=float(np.mean(np.array(gains, np.float64))) if gains else None,
    )


def _or_none(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _chooses_label(prediction: Prediction, reference: Reference) -> bool:
    """True if the best score, or the predicted text, is that of the labelled candidate; without candidates the text
    must be the label itself."""
    label = _label(reference)
    if prediction.text is None:
        return ranking.choice(_scores(prediction, reference)) == label
    return prediction.text.strip() == (reference.candidates[label].strip() if reference.candidates else str(label))


def _accuracy(pairs: Sequence[Pair]) -> Result:
    return _mean([float(prediction is not None and _chooses_label(prediction, ref)) for prediction, ref in pairs])


def _nlvr2(pairs: Sequence[Pair]) -> Result:
    """``consistency``: the share of groups in which every prediction is right."""
    found = _accuracy(pairs)
    assert found.scores is not None
    groups: dict[str, bool] = {}
    for (_, reference), right in zip(pairs, found.scores, strict=True):
        if reference.group:
            groups[reference.group] = groups.get(reference.group, True) and bool(right)
    consistency = sum(groups.values()) / len(groups) if groups else None
    return dataclasses.replace(found, details={"consistency": consistency})


def _option(prediction: Prediction, reference: Reference) -> int | None:
    """The candidate with the best score, or the one whose letter the text gives; None if it gives none of them."""
    if not reference.candidates:
        raise ValueError(f"{reference.uid}: the reference has no candidates")
    if prediction.text is None:
        return ranking.choice(_scores(prediction, reference))
    return lettered.chosen(prediction.text, len(reference.candidates))


def _scienceqa(pairs: Sequence[Pair]) -> Result:
    """``no_letter``: the share of existing predictions that choose no option."""
    options = [_option(prediction, ref) for prediction, ref in pairs if prediction]
    chosen = iter(options)
    right = [float(prediction is not None and next(chosen) == _label(ref)) for prediction, ref in pairs]
    return _mean(right, no_letter=options.count(None) / len(options) if options else None)


def _named(pairs: Sequence[Pair]) -> Result:
    """``word_by_word``: the same with the published matching; ``names_none``: the share of answers without a class."""

    def right(choose: Callable[[str, Sequence[str]], int | None]) -> tuple[list[float], int]:
        found = [(choose(_text(prediction, ref), ref.candidates) if prediction else None) for prediction, ref in pairs]
        scores = [float(own == _label(ref)) for own, (_, ref) in zip(found, pairs, strict=True)]
        return scores, found.count(None)

    (scores, none), (published, _) = right(named.first), right(named.by_words)
    return _mean(scores, word_by_word=_share(published), names_none=none / len(pairs) if pairs else None)


def _which_side(pairs: Sequence[Pair]) -> Result:
    """``as_published``: the same with the published matching; ``names_neither``: the share of answers that name no
    side, or both."""
    found = [sides.chosen(_text(prediction, ref)) if prediction else None for prediction, ref in pairs]
    published = [
        float(prediction is not None and sides.as_published(_text(prediction, ref), _label(ref)))
        for prediction, ref in pairs
    ]
    wanted = [_label(ref) for _, ref in pairs]
    return _mean(
        [float(own == label) for own, label in zip(found, wanted, strict=True)],
        as_published=_share(published),
        names_neither=found.count(None) / len(found) if found else None,
    )


def _three_votes(pairs: Sequence[Pair]) -> Result:
    """VQA accuracy over the votes, where three equal votes give only 2/3; ``any_vote``: the share of answers that at
    least one annotator gave; ``each_vote``: the mean share of annotators who gave it; ``ceiling``: the highest possible
    value."""

    def of(pair: Pair) -> tuple[float, float, float]:
        prediction, reference = pair
        votes = [vqa.normalise_evalai(answer) for answer in _answers(reference)]
        best = max(vqa.vqa_accuracy(vote, votes, "evalai") for vote in votes)
        if prediction is None:
            return 0.0, 0.0, best
        said = _text(prediction, reference)
        return vqa.vqa_accuracy(said, votes, "evalai"), votes.count(vqa.normalise_evalai(said)) / len(votes), best

    rows = [of(pair) for pair in pairs]
    return _mean(
        [value for value, _, _ in rows],
        any_vote=_share([float(share > 0) for _, share, _ in rows]),
        each_vote=_share([share for _, share, _ in rows]),
        ceiling=_share([best for _, _, best in rows]),
    )


def _share(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _side(reference: Reference) -> int:
    """The class of a binary reference, 0 or 1, by its label or else its answer. Raises ValueError if it has neither."""
    side = reference.label if reference.label is not None else ranking.verbalised(_answers(reference)[0])
    if side not in (0, 1):
        raise ValueError(f"{reference.uid}: the reference is neither 0 nor 1, neither yes nor no")
    return int(side)


def _yes_no(pairs: Sequence[Pair]) -> Result:
    sides = (
        (ranking.verbalised(_text(prediction, ref)) if prediction else None, _side(ref)) for prediction, ref in pairs
    )
    return _mean([float(predicted == wanted) for predicted, wanted in sides])


def _auc(pairs: Sequence[Pair]) -> Result:
    """ROC AUC; a missing prediction is ranked at the wrong end."""
    classes = np.array([_side(ref) for _, ref in pairs], np.int64)
    scores, odds = np.zeros(len(pairs)), True
    for n, (prediction, ref) in enumerate(pairs):
        given = prediction.scores if prediction else ()
        if prediction is None:
            scores[n] = np.inf if classes[n] == 0 else -np.inf
        elif ref.candidates and len(given) != 1:
            scores[n] = ranking.log_odds(_scores(prediction, ref), ref.candidates)
        elif len(given) == 2:
            scores[n] = given[1] - given[0]
        elif len(given) == 1:
            scores[n], odds = given[0], False  # an arbitrary scale, so there is no threshold for an accuracy
        else:
            raise ValueError(f"{ref.uid}: {len(given)} scores; must be one, or two: of no and of yes")
    value = ranking.auc(scores, classes)
    return Result(
        value,
        len(pairs),
        details={"accuracy": float(((scores > 0) == classes).mean())} if odds and len(pairs) else {},
        resampled=partial(ranking.auc_resampled, scores, classes) if value is not None else None,
        reason=None if value is not None else "AUC needs examples of both classes",
    )


METRICS: dict[str, Callable[[Sequence[Pair]], Result]] = {
    "vqa_accuracy": partial(_of_texts, vqa.vqa_accuracy),
    "vqa_accuracy_lavis": partial(_of_texts, partial(vqa.vqa_accuracy, variant="lavis")),
    "vqa_accuracy_evalai": partial(_of_texts, partial(vqa.vqa_accuracy, variant="evalai")),
    "cider": _cider,
    "bleu1": partial(_bleu, 1),
    "bleu2": partial(_bleu, 2),
    "bleu3": partial(_bleu, 3),
    "bleu4": partial(_bleu, 4),
    "rouge_l": _rouge,
    "exact_match": partial(_of_texts, vqa.exact_match),
    "gqa": _gqa,
    "top1": partial(_of_texts, vqa.plain_match),
    "aokvqa_da": _aokvqa,
    "ivqa": partial(_of_texts, vqa.ivqa_soft),
    "accuracy": _accuracy,
    "nlvr2": _nlvr2,
    "yes_no": _yes_no,
    "mrr": _mrr,
    "auc": _auc,
    "scienceqa": _scienceqa,
    "named_class": _named,
    "which_side": _which_side,
    "three_votes": _three_votes,
}
"""Name -> metric, as defined in docs/metrics.md. Each raises ValueError naming a pair that lacks a needed field."""


def by_group(metric: str, pairs: Sequence[Pair]) -> dict[str, dict[str, Result]]:
    """Group name -> value -> the metric over the pairs that have it, as if they were a whole set.

    Values are sorted by name, ScienceQA's classes as `CLASSES`.
    """
    out: dict[str, dict[str, Result]] = {}
    for name in GROUPS:
        members: dict[str, list[Pair]] = {}
        for pair in pairs:
            values = pair[1].groups.get(name, ())
            for value in (values,) if isinstance(values, str) else values:
                members.setdefault(value, []).append(pair)
        if members:
            order = [*CLASSES, *sorted(members.keys() - set(CLASSES))]
            out[name] = {value: METRICS[metric](members[value]) for value in order if value in members}
    return out


def as_dict(metric: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Metric, value, count, missing, interval and details of a set as JSON types; and "reason" if the value is
    undefined or does not depend on the predictions."""
    result = METRICS[metric](pairs)
    interval = result.interval()
    groups = {
        name: {
            value: {"value": part.value, "count": part.count} | ({"reason": part.reason} if part.reason else {})
            for value, part in parts.items()
        }
        for name, parts in by_group(metric, pairs).items()
    }
    summary = {
        "metric": metric,
        "value": result.value,
        "count": result.count,
        "missing": sum(prediction is None for prediction, _ in pairs),
        "interval": list(interval) if interval else None,
        "details": {**result.details, **groups},
    }
    return summary | ({"reason": result.reason} if result.reason else {})
