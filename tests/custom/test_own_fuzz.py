"""Annotation files, broken in many ways: each is refused by name, or its rows are skipped; no other error is raised."""

import io
import json
import tarfile

import numpy as np
import pytest
from own_files import json_file, json_lines, picture, png, rows

from instructblip_jax.datasets.draft import Draft

ROW = {"id": "q", "image": "a.png", "instruction": "What colour is the box?", "answer": "réd", "weights": [1.0]}
TALK = {"image": "a.png", "conversations": [{"from": "human", "value": "<image>Who?"}, {"from": "gpt", "value": "I."}]}
ROUNDS = 36
"""Broken files of each of the seven kinds."""


def originals(folder):
    """Whole files of several formats."""
    picture(folder / "a.png")
    yield json_lines(folder / "own.jsonl", ROW, ROW | {"answers": ["a", "b"], "answer": None}, ROW)
    yield json_file(folder / "own.json", [ROW, ROW])
    yield json_file(folder / "talk.json", [TALK, TALK])
    source = folder / "own.csv"
    source.write_text('image,question,answer\na.png,"What, now?",réd\na.png,Why?,"b\nc"\n')
    yield source
    images = [{"id": n, "file_name": "a.png"} for n in range(3)]
    captions = [{"id": n, "image_id": n, "caption": "A box."} for n in range(3)]
    yield json_file(folder / "coco.json", {"images": images, "annotations": captions})
    yield json_file(folder / "questions.json", {"questions": [{"image_id": 0, "question": "What?", "question_id": 0}]})
    source = folder / "shard.tar"
    with tarfile.open(source, "w") as file:
        for name, data in (("a.png", png()), ("a.json", json.dumps(ROW).encode()), ("b.png", png()), ("b.txt", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    yield source


WORDS = [
    b"null",
    b"{}",
    b"[]",
    b"1e999",
    b'"\\ud800"',
    b"\x00",
    b"\xff",
    b'"',
    b"\n",
    b"[[[[",
    b"-",
    b"../",
    b",",
    b"true",
]


def broken(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with flipped bits, cut off, with other words in it, or in another encoding."""
    kind = int(rng.integers(6))
    at = int(rng.integers(len(data)))
    if kind == 0:
        turned = bytearray(data)
        for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
            turned[place] ^= 1 << int(rng.integers(8))
        return bytes(turned)
    if kind == 1:
        return data[:at]
    if kind == 2:
        word = WORDS[int(rng.integers(len(WORDS)))]
        return data[:at] + word + data[at + int(rng.integers(12)) :]
    if kind == 3:  # a value of another type, in well-formed JSON
        values = [b'"a.png"', '"réd"'.encode(), b'"gpt"', b'"A box."', b'"What?"', b"[1.0]", b"0", b'"<image>Who?"']
        value, other = values[int(rng.integers(len(values)))], WORDS[int(rng.integers(5))]
        return data.replace(value, other, int(rng.integers(1, 4)))
    if kind == 4:
        names = ["utf-16", "utf-16-le", "latin-1", "utf-8-sig", "utf-32"]
        return data.decode("utf-8", "replace").encode(names[int(rng.integers(len(names)))], "replace")
    other = int(rng.integers(len(data)))
    return data[: max(at, other)] + data[min(at, other) :]


def outcome(source):
    """The rows of a file, or what it raised."""
    try:
        return rows(source)
    except Exception as error:
        return error


@pytest.mark.parametrize("number", range(7))
def test_broken_files_are_reported_by_name_or_row_by_row(tmp_path, number):
    source = list(originals(tmp_path))[number]
    data = source.read_bytes()
    rng = np.random.default_rng(number)
    outcomes = {"refused": 0, "skipped": 0, "read": 0}
    for _ in range(ROUNDS):
        source.write_bytes(broken(data, rng))
        found = outcome(source)
        if isinstance(found, Exception):
            assert type(found) in (ValueError, FileNotFoundError), repr(found)
            assert source.name in str(found)
            outcomes["refused"] += 1
            continue
        for row in found:
            assert source.name in row.where
            if isinstance(row, Draft):
                row.record.to_json().encode()  # what is written
        outcomes["read" if all(isinstance(row, Draft) for row in found) else "skipped"] += 1
    assert outcomes["refused"] + outcomes["skipped"] >= ROUNDS // 4, outcomes
