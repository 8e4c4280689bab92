"""Splitting tables into rows: where a quoted cell ends, and how many lines an open quote may take."""

import pytest

from instructblip_jax.datasets.readers.delimited import LONGEST, Splitter
from instructblip_jax.datasets.readers.fields import BadRow


def split(text, sign=",", count=2):
    """(line, cells or None if unbalanced, lines it takes) of each row."""
    found = Splitter(sign, count).rows(iter(text.splitlines(keepends=True)))
    return [(line.number, None if isinstance(line.cells, BadRow) else line.cells, line.lines) for line in found]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('a,"b"\r\nc,d', [(1, ["a", "b"], 1), (2, ["c", "d"], 1)]),
        ('a,"b,""c"""\n', [(1, ["a", 'b,"c"'], 1)]),
        ('"","" \nx,\n', [(2, ["x", ""], 1)]),  # the first is blank
        ('a,"b\n\nc"\nd,e\n', [(1, ["a", "b\n\nc"], 2), (4, ["d", "e"], 1)]),
        ('"a\nb",c\nd,e\n', [(1, ["a\nb", "c"], 2), (3, ["d", "e"], 1)]),
        ('a,"b\nc,d\n', [(1, None, 1), (2, ["c", "d"], 1)]),
        ('a,"b\nc\nd', [(1, None, 1), (2, ["c"], 1), (3, ["d"], 1)]),
        ('a,"b\nsays "c"\nd,e', [(1, None, 1), (2, ['says "c"'], 1), (3, ["d", "e"], 1)]),
        ('a,"b" c\nd,e "f\n', [(1, ["a", '"b" c'], 1), (2, ["d", 'e "f'], 1)]),
        (r'a,"b\"c\\"', [(1, ["a", 'b"c\\'], 1)]),
        ('a,"C:\\"\nb,c\n', [(1, ["a", "C:\\"], 1), (2, ["b", "c"], 1)]),
    ],
)
def test_rows(text, want):
    assert split(text) == want


def test_in_a_tsv_a_quote_that_is_not_closed_is_text():
    assert split('a\t"b\nc\td\n', "\t") == [(1, ["a", '"b'], 1), (2, ["c", "d"], 1)]
    assert split('a\t"b\nc"\nd\t"e\tf"\n', "\t") == [(1, ["a", "b\nc"], 2), (3, ["d", "e\tf"], 1)]


def test_many_open_quotes_are_read_in_one_pass():
    """The search below each of them is bounded."""
    rows = split('a,"' + "x\n" * 30_000 + 'b,"y\n' * 30_000)
    assert len(rows) == 60_000
    assert sum(cells is None for _, cells, _ in rows) == 30_001
    longest = split(f'a,"{"x" * LONGEST}\ny"\n')
    assert [cells for _, cells, _ in longest] == [None, ['y"']]
