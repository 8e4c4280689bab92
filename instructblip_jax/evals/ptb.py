"""Splits captions into words, almost like Stanford's PTBTokenizer (CoreNLP 3.4.1, -preserveLines -lowerCase).

COCO's caption evaluation runs that Java program before CIDEr, BLEU and ROUGE. The rules here are our own and agree with
it on ordinary captions and on everything in `tests/evals/test_ptb.py`; scores are therefore called "PTB-like".
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import zip_longest

DROPPED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
"""Tokens that the caption evaluation drops. It is meant to drop round and curly brackets as well, but lists them in
upper case, -LRB-, while tokens are in lower case, so they stay. `!!!` stays, too."""

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
    | dict.fromkeys("\u00ad\u200b\u200d\ufe0e\ufe0f\ufeff")  # soft hyphen, joiners, byte order mark: ignored
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
"""Abbreviations that always keep their period."""
_BEFORE_NUMBERS = {"no.", "nos."}
"""Abbreviations that keep their period before a number."""

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
    """The tokens of a lower-case text without white space."""
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


@lru_cache(maxsize=1 << 17)  # captions use the same few words
def _tokens(chunk: str) -> tuple[str, ...]:
    return tuple(_split(chunk))


def tokenize(caption: str) -> list[str]:
    """All tokens of a caption, in lower case: "A man's dog." -> ["a", "man", "'s", "dog", "."]."""
    text = caption.lower()
    if not text.isascii():
        text = "".join(mark for mark in text.translate(_CHARACTERS) if mark <= "\uffff")  # emoji are ignored
    chunks = text.split()
    tokens: list[str] = []
    for chunk, following in zip_longest(chunks, chunks[1:], fillvalue=""):
        if chunk in _BEFORE_NUMBERS and following[:1].isdigit():
            tokens.append(chunk)
        else:
            tokens.extend(_tokens(chunk))
    return tokens


def words(caption: str) -> list[str]:
    """The tokens of a caption that are scored: all but those in `DROPPED`."""
    return [token for token in tokenize(caption) if token not in DROPPED]
