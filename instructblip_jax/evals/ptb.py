"""Captions to words nearly as Stanford's PTBTokenizer gives them (CoreNLP 3.4.1, -preserveLines -lowerCase).

That Java program is what COCO's caption evaluation runs before CIDEr, BLEU and ROUGE. This is not it: rules of our own
that agree with it on ordinary captions and on everything in `tests/evals/test_ptb.py`, so scores are "PTB-like".
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import zip_longest

DROPPED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
"""What the caption evaluation throws away. It means round and curly brackets, too, but spells these in capitals,
-LRB-, and they come in small letters: they stay, as `!!!` does."""

_CHARACTERS = str.maketrans(
    {
        "“": "``",
        "”": "''",
        "„": "``",
        "«": "``",
        "»": "''",
        "‘": "`",
        "’": "'",
        "£": "#",
        "€": "$",
        "¼": "1/4",
        "½": "1/2",
        "¾": "3/4",
        "–": "--",
        "—": "--",
        "…": "...",
    }
    | dict.fromkeys("\u00ad\u200b\u200d\ufe0e\ufe0f\ufeff")  # soft hyphen, joiners, byte order mark: not seen
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_IN_TWO = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
_ABBREVIATIONS = """
    adm al apr aug ave blvd brig bros calif capt cmdr co col corp cos cpl dec dept dr drs e.g esq est etc ext feb fla
    fri ft gen gov hon i.e inc jan jr jun lt ltd maj messrs mon mr mrs ms mt nov oct penn ph.d pres prof pvt rd rep rev
    sen sep sept sgt sr st ste tel thu thurs tue tues univ vs wed
"""
"""They keep their period, wherever they stand."""
_BEFORE_NUMBERS = {"no.", "nos."}
"""They keep it where a number follows."""

_L = r"[^\W\d_][\u0300-\u036f]*"
_LETTER_OR_DIGIT = rf"(?:{_L}|\d)"
_WORD = rf"{_LETTER_OR_DIGIT}+(?:-{_LETTER_OR_DIGIT}+)*"
_CLITIC = r"'(?:s|m|d|re|ve|ll)(?!\w)"
_TOKEN = re.compile(
    "|".join(
        [
            r"(?P<link>(?:https?://|www\.)[^\s<>\"()|]*[^\s<>\"()|.,:;!?'])",
            r"(?P<mail>[\w.+-]*\w@\w+(?:[.-]\w+)*)",
            r"(?P<name>[@#][a-z_]\w*)",
            r"(?P<tag>(?:<|&lt;)[!?/]?[a-z][^\s<>&]*(?:>|&gt;))",
            r"(?P<face>(?<!\w)[:;=]-?[()\[\]dp|/\\](?!\w))",
            r"(?P<currency>(?<!\w)(?:us|[acn]|hk|nz)?\$)",
            rf"(?P<clitic>{_CLITIC}|n't(?!\w))",
            r"(?P<era>(?<!\w)'\d\ds?(?!\w)|'n'|'n(?!\w)|'(?:em|til|cause)(?!\w))",
            r"(?P<two>(?<![\w'])'t(?:is|was)(?!\w))",
            rf"(?P<apostrophe>(?<!\w)(?:[dol]'{_WORD}|ma'am(?!\w)|c'mon(?!\w)|y'(?=all)))",
            r"(?P<number>(?<!\w)[-+]?(?:\d+(?:[.,:/]\d+)+|\.\d+(?:[.,:/]\d+)*|(?<=[-+])\d+(?![\w-])))",
            rf"(?P<initials>(?<![\w']){_L}(?:\.{_L}(?!\w))*\.(?!\w))",
            rf"(?P<abbreviation>(?<!\w)(?:{'|'.join(map(re.escape, _ABBREVIATIONS.split()))})\.(?!\w))",
            rf"(?P<negated>{_WORD}?(?=n't(?!\w)))",
            rf"(?P<either>{_WORD}(?:/{_WORD}(?!['\w])){{1,2}})",
            rf"(?P<word>{_WORD}(?:(?:[._]|&(?!(?:amp|lt|gt);)){_L}(?:{_LETTER_OR_DIGIT}|-(?=\w))*)*)",
            r"(?P<dots>\.{3,})",
            r"(?P<shout>[!?]+)",
            r"(?P<dash>-{2,4}(?!-)|-{5,})",
            r"(?P<quote>``|''|\"|'|`)",
            r"(?P<entity>&(?:amp|lt|gt);)",
            r"(?P<other>\S)",
        ]
    )
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}


def _split(chunk: str) -> Iterator[str]:
    """Tokens of a lower-case text without white space."""
    for match in _TOKEN.finditer(chunk):
        kind, token = match.lastgroup, match.group()
        if kind == "quote":
            before, after = chunk[match.start() - 1 : match.start()], chunk[match.end() : match.end() + 1]
            opens = (not before or before in "([{-/`\"'") and (after.isalnum() or after == "$")
            yield {'"': "``", "'": "`"}.get(token, token) if opens else {'"': "''"}.get(token, token)
        elif kind == "dots":
            yield "..."
        elif kind == "dash":
            yield "--" if len(token) < 5 else token
        elif kind == "entity":
            yield _ENTITIES[token]
        elif kind == "face":
            yield "".join(_BRACKETS.get(mark, mark) for mark in token)
        elif kind in ("word", "two"):
            yield from _IN_TWO.get(token, (token,))
        else:
            yield _BRACKETS.get(token, token)


@lru_cache(maxsize=1 << 17)  # captions are made of the same few words
def _tokens(chunk: str) -> tuple[str, ...]:
    return tuple(_split(chunk))


def tokenize(caption: str) -> list[str]:
    """All tokens of a caption, in lower case: "A man's dog." -> ["a", "man", "'s", "dog", "."]."""
    text = caption.lower()
    if not text.isascii():
        text = "".join(mark for mark in text.translate(_CHARACTERS) if mark <= "\uffff")  # emoji are not seen
    chunks = text.split()
    tokens: list[str] = []
    for chunk, following in zip_longest(chunks, chunks[1:], fillvalue=""):
        if chunk in _BEFORE_NUMBERS and following[:1].isdigit():
            tokens.append(chunk)
        else:
            tokens.extend(_tokens(chunk))
    return tokens


def words(caption: str) -> list[str]:
    """The tokens that are scored: without those of `DROPPED`."""
    return [token for token in tokenize(caption) if token not in DROPPED]
