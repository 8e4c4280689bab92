"""Scores of short answers: VQA accuracy in its three variants, A-OKVQA's, iVQA's, and equality in several forms.

The normalisation is that of the VQA evaluation (Antol et al. 2015), as its program does it rather than as its comments
say: LAVIS, MMF and the server share the steps and differ in which texts go through them.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

MARKS = ';/[]"{}()=+\\_-><@`,?!'
"""Deleted or replaced by a space. Colons, apostrophes, $, %, &, # and * stay."""
_NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
ARTICLES = {"a", "an", "the"}

# The table of the evaluation program restores one lost apostrophe; its keys are these words without one of theirs.
_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _APOSTROPHES.split()
    for place, mark in enumerate(word)
    if mark == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"  # as it stands there
"""Its rows with a capital (Im, Ive, Id've) never meet a word, which is lower-cased before: "im" stays."""

_MARK = re.compile(f"[{re.escape(MARKS)}]")
_BETWEEN_DIGITS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32
"""So many are removed at most: the program passes a flag (of this value) where the count is meant."""


def strip_space(text: str) -> str:
    """Step 1: line ends and tabs become spaces; none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)  # ten people say much the same
def strip_punctuation(text: str) -> str:
    """Step 2. A mark with a space at either side anywhere in the text is deleted everywhere, others become
    spaces; a comma between digits deletes all."""
    numbers = _BETWEEN_DIGITS.search(text)
    gone = {mark for mark in _MARK.findall(text) if numbers or f"{mark} " in text or f" {mark}" in text}
    text = _MARK.sub(lambda match: "" if match.group() in gone else " ", text)
    return _FULL_STOP.sub("", text, count=_FULL_STOPS)


@lru_cache(maxsize=1 << 16)
def simplify_words(text: str) -> str:
    """Step 3: lower case, numbers up to ten as digits, no articles, lost apostrophes restored, single spaces."""
    words = (DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise(text: str) -> str:
    """Steps 1 to 3: "The Two dogs." -> "2 dogs"."""
    return simplify_words(strip_punctuation(strip_space(text)))


def normalise_evalai(text: str) -> str:
    """MMF's: before the steps commas and question marks go, and 's stands apart: "it's 5?" -> "it 's 5"."""
    return normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())


def _official(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """The server since 2021: nothing but white space is touched where all people agree ("Yes" is then not "yes")."""
    prediction, answers = strip_space(prediction), [strip_space(answer) for answer in answers]
    if len(set(answers)) <= 1:
        return prediction, answers
    return normalise(prediction), [normalise(answer) for answer in answers]


def _lavis(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """LAVIS: the prediction always; of the answers, where they differ, the punctuation alone."""
    agreed = len(set(answers)) <= 1
    return normalise(prediction), list(answers) if agreed else [strip_punctuation(answer) for answer in answers]


def _evalai(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """MMF's evaluators for EvalAI: both, always."""
    return normalise_evalai(prediction), [normalise_evalai(answer) for answer in answers]


VARIANTS: dict[str, Callable[[str, Sequence[str]], tuple[str, list[str]]]] = {
    "official": _official,
    "lavis": _lavis,
    "evalai": _evalai,
}
"""Variant -> what of a prediction and of the answers is compared."""


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: str = "official") -> float:
    """min(1, matches among the others / 3), averaged over leaving out each of the answers; equality with a lone answer.

    Of ten answers n equal ones give 0, 0.3, 0.6, 0.9, 1. ``answers`` are everybody's, repeated as they were given.
    Raises ValueError without any.
    """
    if not answers:
        raise ValueError("no answers to compare with")
    seen, given = VARIANTS[variant](prediction, answers)
    matches, count = given.count(seen), len(given)
    if count == 1:
        return float(matches)
    # In integers, so that 0.3 is 0.3. Whoever gave the answer is left out of `matches` turns.
    return (matches * min(3, matches - 1) + (count - matches) * min(3, matches)) / (3 * count) if matches else 0.0


def aokvqa_direct(prediction: str, answers: Sequence[str]) -> float:
    """A-OKVQA's direct answers: min(1, equal ones / 3); nothing is normalised, nobody left out."""
    return min(1.0, list(answers).count(prediction) / 3)


def ivqa_soft(prediction: str, answers: Sequence[str]) -> float:
    """iVQA: min(1, equal ones of the five / 2), in lower case and without space around (Yang et al. 2021)."""
    return min(1.0, [answer.lower().strip() for answer in answers].count(prediction.lower().strip()) / 2)


def normalised_match(prediction: str, answers: Sequence[str]) -> float:
    """GQA as LAVIS judges it: equal to an answer after steps 2 and 3."""
    normal = simplify_words(strip_punctuation(prediction))
    return float(normal in {simplify_words(strip_punctuation(answer)) for answer in answers})


def plain_match(prediction: str, answers: Sequence[str]) -> float:
    """GQA's own program, MSVD-QA and MSRVTT-QA: equal to an answer, letter by letter."""
    return float(prediction in answers)


def tidy(text: str) -> str:
    """Lower case, single spaces, no space before punctuation, no full stop at the end."""
    words = " ".join(text.lower().split())
    for mark in ",.?!:;":
        words = words.replace(f" {mark}", mark)
    return words.removesuffix(".").strip()


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """OCR-VQA, the digits and sets that nobody knows: 1 if the prediction is one of the answers, both made `tidy`."""
    return float(tidy(prediction) in {tidy(answer) for answer in answers})
