"""Repeated ids are told apart."""

from preparing import draft

from instructblip_jax.datasets.draft import Skip
from instructblip_jax.datasets.prepare.uids import Uids


def test_repeated_uids_get_a_number_within_and_across_portions():
    uids = Uids()
    portions = [["a", "b", "a"], ["c", "a", "a#2", "b"], ["a"], [], ["d", "b#2"]]
    got = [[row.record.uid for row in uids.distinct([draft("f:1", uid) for uid in part])] for part in portions]
    assert got == [["a", "b", "a#2"], ["c", "a#3", "a#2#2", "b#2"], ["a#4"], [], ["d", "b#2#2"]]
    assert uids.repeated == 6


def test_skips_pass_and_many_are_remembered_in_eight_bytes_each():
    uids = Uids()
    for start in range(0, 20_000, 500):
        rows = [draft("f:1", f"u{n}") for n in range(start, start + 500)]
        assert uids.distinct([Skip("f:0", "none"), *rows])[1:] == rows
    assert uids.repeated == 0
    assert sum(block.nbytes for block in uids._blocks) == 8 * 20_000
    assert len(uids._blocks) < 16
    again = uids.distinct([draft("f:1", f"u{n}") for n in range(0, 20_000, 7)])
    assert all(row.record.uid.endswith("#2") for row in again)
