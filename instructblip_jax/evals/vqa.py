"""Metrics for short answers: three variants of VQA accuracy, the scores of A-OKVQA and iVQA, and variants of exact
match.

The normalisation follows the program of the VQA evaluation (Antol et al. 2015) where that differs from its comments.
LAVIS, MMF and the server share its steps and differ in the texts to which they apply them.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

MARKS = ';/[]"{}()=+\\_-><@`,?!'
"""Punctuation that is deleted or replaced by a space. Colons, apostrophes, $, %, &, # and * stay."""
_NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
ARTICLES = {"a", "an", "the"}

# The evaluation program's table restores one missing apostrophe: its keys are these words with one apostrophe removed.
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
CONTRACTIONS["somebody'd"] = "somebodyd"  # as in the original
"""The original's capitalised entries (Im, Ive, Id've) never match, because words are lower-cased first: "im" stays."""

_MARK = re.compile(f"[{re.escape(MARKS)}]")
_BETWEEN_DIGITS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32
"""Maximum number of full stops removed: the program passes a regex flag of this value as the count."""


def strip_space(text: str) -> str:
    """Step 1: line ends and tabs become spaces, and the text is stripped."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)  # annotators give many equal answers
def strip_punctuation(text: str) -> str:
    """Step 2: a mark that has a space on either side anywhere in the text is deleted everywhere; other marks become
    spaces. If the text has a comma between digits, all marks are deleted."""
    numbers = _BETWEEN_DIGITS.search(text)
    gone = {mark for mark in _MARK.findall(text) if numbers or f"{mark} " in text or f" {mark}" in text}
    text = _MARK.sub(lambda match: "" if match.group() in gone else " ", text)
    return _FULL_STOP.sub("", text, count=_FULL_STOPS)


@lru_cache(maxsize=1 << 16)
def simplify_words(text: str) -> str:
    """Step 3: lower case, numbers up to ten as digits, no articles, missing apostrophes restored, single spaces."""
    words = (DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise(text: str) -> str:
    """Steps 1 to 3: "The Two dogs." -> "2 dogs"."""
    return simplify_words(strip_punctuation(strip_space(text)))


def normalise_evalai(text: str) -> str:
    """MMF's version: first removes commas and question marks and separates 's: "it's 5?" -> "it 's 5"."""
    return normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())


def _official(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """The server's version since 2021: if all annotators agree, only white space is normalised ("Yes" is not "yes")."""
    prediction, answers = strip_space(prediction), [strip_space(answer) for answer in answers]
    if len(set(answers)) <= 1:
        return prediction, answers
    return normalise(prediction), [normalise(answer) for answer in answers]


def _lavis(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """LAVIS's version: normalises the prediction always, and of differing answers only the punctuation."""
    agreed = len(set(answers)) <= 1
    return normalise(prediction), list(answers) if agreed else [strip_punctuation(answer) for answer in answers]


def _evalai(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """The version of MMF's EvalAI evaluators: always normalises both."""
    return normalise_evalai(prediction), [normalise_evalai(answer) for answer in answers]


VARIANTS: dict[str, Callable[[str, Sequence[str]], tuple[str, list[str]]]] = {
    "official": _official,
    "lavis": _lavis,
    "evalai": _evalai,
}
"""Variant -> function that normalises a prediction and its answers for comparison."""


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: str = "official") -> float:
    """min(1, matches among the other answers / 3), averaged over leaving out each answer; equality for a single answer.

    With ten answers, 0, 1, 2, 3 and 4 matches give 0, 0.3, 0.6, 0.9 and 1. ``answers`` are all annotators', with
    repetitions. Raises ValueError if there are none.
    """
    if not answers:
        raise ValueError("no answers to compare with")
    normal, given = VARIANTS[variant](prediction, answers)
    matches, count = given.count(normal), len(given)
    if count == 1:
        return float(matches)
    # In integers, so that 0.3 is exactly 0.3. A matching answer is the one left out `matches` times.
    return (matches * min(3, matches - 1) + (count - matches) * min(3, matches)) / (3 * count) if matches else 0.0


def aokvqa_direct(prediction: str, answers: Sequence[str]) -> float:
    """A-OKVQA's direct answer score: min(1, equal answers / 3), without normalisation and without leaving one out."""
    return min(1.0, list(answers).count(prediction) / 3)


def ivqa_soft(prediction: str, answers: Sequence[str]) -> float:
    """iVQA's score: min(1, equal answers of the five / 2), ignoring case and outer white space (Yang et al. 2021)."""
    return min(1.0, [answer.lower().strip() for answer in answers].count(prediction.lower().strip()) / 2)


def normalised_match(prediction: str, answers: Sequence[str]) -> float:
    """LAVIS's score for GQA: 1 if the prediction equals an answer after steps 2 and 3."""
    normal = simplify_words(strip_punctuation(prediction))
    return float(normal in {simplify_words(strip_punctuation(answer)) for answer in answers})


def plain_match(prediction: str, answers: Sequence[str]) -> float:
    """Score of GQA's own program, MSVD-QA and MSRVTT-QA: 1 if the prediction equals an answer exactly."""
    return float(prediction in answers)


def tidy(text: str) -> str:
    """Lower case, single spaces, no space before punctuation, no full stop at the end."""
    words = " ".join(text.lower().split())
    for mark in ",.?!:;":
        words = words.replace(f" {mark}", mark)
    return words.removesuffix(".").strip()


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Score of OCR-VQA, the digits and unknown sets: 1 if the prediction equals an answer after `tidy`."""
    return float(tidy(prediction) in {tidy(answer) for answer in answers})
