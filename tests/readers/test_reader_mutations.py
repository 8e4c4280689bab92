"""Annotation files with seeded damage: readers skip rows or name the broken file, and always end."""

import json
import random
import shutil

import pytest
from drawing import raw
from fixtures import ROOTS

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Skip
from instructblip_jax.datasets.readers.releases import RELEASES

ODD = (
    None,
    True,
    0,
    -7,
    10**30,
    1.5,
    "",
    " ",
    "x",
    "\ud800",
    "a\x00b",
    "../../x",
    "/etc/passwd",
    [],
    [None],
    ["x", 3],
    {},
    {"a": []},
)
ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".token", ".tar", ".parquet")
MUTANTS = 10
"""Damaged files per set."""


def places(value, at=()):
    """All (path of keys, value) within a JSON value."""
    yield at, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def change(value, rng):
    """One field dropped, of another type, doubled or renamed."""
    spots = [at for at, _ in places(value) if at]
    if not spots:
        return rng.choice(ODD)
    *way, last = rng.choice(spots)
    holder = value
    for key in way:
        holder = holder[key]
    kind = rng.randrange(4)
    if kind == 0:
        del holder[last]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{last}_"] = holder.pop(last)
    elif kind == 2 and isinstance(holder, list):
        holder.append(holder[last])
    else:
        holder[last] = rng.choice(ODD)
    return value


def bend(text, rng):
    """A file's text with several fields changed."""
    try:
        value = json.loads(text)
    except ValueError:
        rows = text.splitlines()
        row = rng.randrange(len(rows))
        rows[row] = (
            ""
            if rng.random() < 0.3
            else rows[row][: rng.randrange(len(rows[row]) + 1)] + rng.choice(("", '"', "|", "\t"))
        )
        return "\n".join(rows)
    for _ in range(rng.randrange(1, 6)):
        value = change(value, rng)
    return json.dumps(value)


def damage(path, rng):
    data = path.read_bytes()
    kind = rng.randrange(8)
    if kind < 5 and path.suffix not in (".tar", ".parquet"):
        path.write_text(bend(data.decode("utf-8-sig", "replace"), rng))
    elif kind == 5:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == 6:
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randrange(2) :])
    else:
        text = data.decode("utf-8-sig", "replace")
        path.write_bytes(text.encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "cp1252")), "replace"))


@pytest.mark.parametrize("name", RELEASES)
def test_a_damaged_file_never_ends_in_another_way(one_world, tmp_path, name):
    rng = random.Random(name)
    source = one_world / ROOTS.get(name, name)
    ends = []
    for number in range(MUTANTS):
        copy = tmp_path / f"mutant{number}"
        shutil.copytree(
            source,
            copy,
            ignore=shutil.ignore_patterns("*.jpg", "*.png", "*.gif", "*.avi", "*.mp4", "*.webm", "*.wav", "*.npz"),
        )
        if name == "capfilt" and number % 2:
            (copy / "annotation.json").unlink()  # the shards' turn
        files = sorted(path for path in copy.rglob("*") if path.suffix in ENDINGS and path.stat().st_size)
        damaged = rng.choice(files)
        damage(damaged, rng)
        try:
            for make in RELEASES[name].splits(copy, [copy]).values():
                for row in make():
                    assert isinstance(row, (Draft, Skip))
                    row.where.encode()
                    if isinstance(row, Skip):
                        assert 0 < len(row.reason) < 60
                        (row.reason + row.detail).encode()
                    else:
                        assert Record.from_json(row.record.to_json(), ()) == row.record
                        row.record.to_json().encode()
                        assert all(media.path.is_relative_to(copy) for media in row.media)
            if RELEASES[name].vocabulary:
                RELEASES[name].vocabulary(copy)
            ends.append("read")
        except (ValueError, FileNotFoundError) as error:
            ends.append((type(error), str(error)))
    told = [end for end in ends if end != "read"]
    assert len(ends) == MUTANTS
    assert all(issubclass(kind, (ValueError, FileNotFoundError)) and str(tmp_path) in text for kind, text in told)


def test_mutants_differ_from_what_they_were(one_world):
    """The damage is real: most files of a set differ from the original."""
    rng = random.Random(5)
    text = (one_world / "vqav2/v2_mscoco_val2014_annotations.json").read_text()
    bent = [bend(text, rng) for _ in range(50)]
    assert sum(json.loads(one) != raw(one_world / "vqav2/v2_mscoco_val2014_annotations.json") for one in bent) > 40
