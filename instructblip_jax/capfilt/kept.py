"""The filtered texts: the drafts of the new dataset, and the counts."""

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from instructblip_jax.capfilt.parts import SYNTHETIC, WEB, Judged, Outcome, Part
from instructblip_jax.datasets.draft import Draft, Reading, Skip, Stream

EXAMPLES = 5
Parts = Generator[Part, None, int | None]
"""See `parts.parts`."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """The rule of the filter: a text is kept if its probability is above ``threshold`` and, unless ``most`` is 0, it is
    among the ``most`` likely ones of its image (BLIP-2, arXiv 2301.12597, section 3.4, keeps two of ten)."""

    threshold: float
    most: int

    def kept(self, outcome: Outcome) -> list[Judged]:
        """The kept texts, in order."""
        likely = sorted(outcome.texts, key=lambda text: -text.probability)
        best = likely[: self.most] if self.most else likely
        return [text for text in outcome.texts if text in best and text.probability > self.threshold]


def drafts(parts: Parts, outcomes: Callable[[Part], list[Outcome]], rule: Rule) -> Stream:
    """The rows of the new dataset: those of the sources with the kept texts as answers, and a skip for every other
    row."""
    found = Reading(parts)
    for part in found:
        judged = iter(outcomes(part))
        for row in part.rows:
            yield row if isinstance(row, Skip) else _draft(row, next(judged), rule)
    return found.held or 0


def _draft(draft: Draft, outcome: Outcome, rule: Rule) -> Draft | Skip:
    if outcome.reason:
        return Skip(draft.where, outcome.reason, outcome.detail, draft.rows)
    kept = rule.kept(outcome)
    if not kept:
        texts = "; ".join(f"{text.source} {text.probability:.3f} {text.text!r}" for text in outcome.texts)
        return Skip(draft.where, "no text is kept", texts, draft.rows)
    meta = {
        **draft.record.meta,
        "sources": [text.source for text in kept],
        "probabilities": [round(text.probability, 6) for text in kept],
    }
    answers = tuple(text.text for text in kept)
    return dataclasses.replace(draft, record=dataclasses.replace(draft.record, answers=answers, meta=meta))


@dataclasses.dataclass
class Counts:
    """Numbers of images that were scored, and of those that keep a text, or texts of both sources; kept and dropped
    texts by source; the first rows, as (uid, texts, kept texts)."""

    pictures: int = 0
    with_text: int = 0
    with_both: int = 0
    kept: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys((WEB, SYNTHETIC), 0))
    dropped: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys((WEB, SYNTHETIC), 0))
    examples: list[tuple[str, Sequence[Judged], Sequence[Judged]]] = dataclasses.field(default_factory=list)

    def add(self, uid: str, outcome: Outcome, rule: Rule) -> None:
        """Count a row with a readable image."""
        kept = rule.kept(outcome)
        self.pictures += 1
        self.with_text += bool(kept)
        self.with_both += len({text.source for text in kept}) == 2
        for text in outcome.texts:
            (self.kept if text in kept else self.dropped)[text.source] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((uid, outcome.texts, kept))

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{'texts':<12} {'kept':>12} {'dropped':>12}"
        for source, count in self.kept.items():
            yield f"{source:<12} {count:>12,} {self.dropped[source]:>12,}"
        yield f"{self.with_text:,} of {self.pictures:,} pictures keep a text, {self.with_both:,} of them both kinds"
        for uid, texts, kept in self.examples:
            yield uid
            for text in texts:
                fate = "kept" if text in kept else "dropped"
                yield f"  {fate:<8} {text.source:<10} {text.probability:.3f}  {text.text}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "pictures": {"judged": self.pictures, "with_text": self.with_text, "with_both": self.with_both},
            "texts": {source: {"kept": count, "dropped": self.dropped[source]} for source, count in self.kept.items()},
            "examples": [
                {"uid": uid, "texts": [{**dataclasses.asdict(text), "kept": text in kept} for text in texts]}
                for uid, texts, kept in self.examples
            ],
        }


def counted(parts: Parts, rule: Rule) -> Counts:
    """The counts of all parts with existing files."""
    counts = Counts()
    for part in parts:
        for draft, outcome in zip(part.drafts, part.read() or (), strict=False):
            if not outcome.reason:
                counts.add(draft.record.uid, outcome, rule)
    return counts
