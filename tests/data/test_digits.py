"""The digits world: its handwriting is divided, its answers are right, its words are known."""

import io
import runpy
from collections import Counter

import numpy as np
import pytest
import toys
from PIL import Image

from instructblip_jax.data import prepared
from instructblip_jax.data.templates import check, fields
from instructblip_jax.datasets.digits import prepare, scans
from instructblip_jax.datasets.digits import scene as scenes
from instructblip_jax.datasets.digits.records import make, split_size
from instructblip_jax.datasets.digits.tasks import EVALUATED, HELD_IN, HELD_OUT, TASKS
from instructblip_jax.datasets.digits.templates import PLAIN, TEMPLATES

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
CONFIG = runpy.run_path(str(toys.ROOT / "configs" / "digits.py"))
SAMPLE = 120
"""Records of each set that are looked at."""


@pytest.fixture(scope="module")
def records():
    return {name: list(make(name, "test", 0, SAMPLE)) for name in TASKS}


def instructions(record) -> list[str]:
    return [template.format(**record.slots) for template in TEMPLATES[record.dataset]]


# Scans


def test_no_scan_is_in_two_splits_and_none_is_lost():
    from sklearn.datasets import load_digits

    data = load_digits()
    whole = Counter(
        (int(digit), np.rint(image * (255 / 16)).astype(np.uint8).tobytes())
        for image, digit in zip(data.images, data.target, strict=True)
    )
    splits = {
        split: Counter((digit, scan.tobytes()) for digit, own in enumerate(scans.load(split)) for scan in own)
        for split in scans.SHARES
    }
    assert sum(splits.values(), Counter()) == whole
    assert whole.total() == 1797
    names = list(splits)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            assert not splits[one].keys() & splits[other].keys()
    for split, share in scans.SHARES.items():
        assert abs(splits[split].total() / 1797 - share) < 0.01
        assert {digit for digit, _ in splits[split]} == set(range(10))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_scenes_are_composed_of_their_own_splits_scans(split, monkeypatch):
    asked = Counter()
    load = scans.load

    def spy(name):
        asked[name] += 1
        return load(name)

    monkeypatch.setattr(scans, "load", spy)
    assert len(list(make("caption", split, 0, 5))) == 5
    assert asked == {split: 5}


# Records


@pytest.mark.parametrize("name", TASKS)
def test_records_are_functions_of_set_split_and_number(name, records):
    assert list(make(name, "test", 3, 6)) == records[name][3:6]
    other = list(make(name, "validation", 3, 6))
    assert all(a.images != b.images for a, b in zip(other, records[name][3:6], strict=True))
    for number, record in enumerate(records[name]):
        assert record.uid == f"{name}/test/{number}"
        assert (record.dataset, record.split, record.task) == (name, "test", TASKS[name][0])
        assert record.instruction is None
        assert record.answers
        assert all(answer and answer == answer.strip() for answer in record.answers)
    assert len({record.images for record in records[name]}) == SAMPLE


def test_sizes_are_very_different_and_kinds_are_held_out():
    assert len(HELD_IN) >= 8
    assert len(HELD_OUT) >= 4
    assert set(HELD_IN) | set(HELD_OUT) == set(TASKS)
    assert not set(HELD_IN) & set(HELD_OUT)
    assert max(HELD_IN.values()) == 20_000
    assert min(HELD_IN.values()) == 200
    assert {name: split_size(name, "train") for name in HELD_OUT} == dict.fromkeys(HELD_OUT, 0)
    assert {name: split_size(name, "train") for name in HELD_IN} == HELD_IN
    assert {split_size(name, split) for name in TASKS for split in ("validation", "test")} == {EVALUATED}


def test_the_configuration_names_the_same_sets():
    config = CONFIG["get_config"]()
    assert tuple(config.mixture.sets) == tuple(config.evaluation.held_in) == tuple(HELD_IN)
    assert tuple(config.evaluation.held_out) == tuple(HELD_OUT)


# Answers, derived again from the words that describe the scene


class Seen:
    """A scene as its description has it: places, colours, digits."""

    def __init__(self, text: str):
        words = text.split()
        assert len(words) % 3 == 0
        self.cells = [(place, colour, int(digit)) for place, colour, digit in zip(*[iter(words)] * 3, strict=True)]
        self.places = {place: (colour, digit) for place, colour, digit in self.cells}
        assert len(self.places) == len(self.cells)

    def where(self, colour=None, digit=None, row=None, column=None) -> list[tuple[str, str, int]]:
        return [
            cell
            for cell in self.cells
            if (colour is None or cell[1] == colour)
            and (digit is None or cell[2] == digit)
            and (row is None or cell[0].split("-")[0] == row)
            and (column is None or cell[0].split("-")[1] == column)
        ]

    def named(self, name: str) -> list[tuple[str, str, int]]:
        colour, digit = name.split()
        return self.where(colour=colour, digit=int(digit))

    def line(self, **which) -> list[str]:
        """The digits of a row from left to right, or of a column from top to bottom."""
        order = {place: n for names in (ROWS, COLUMNS) for n, place in enumerate(names)}
        found = sorted(self.where(**which), key=lambda cell: [order[part] for part in cell[0].split("-")])
        return [str(cell[2]) for cell in found]


def only(items: list):
    assert len(items) == 1, f"not one answer but {items}"
    return items[0]


def counted(seen: Seen, what: str) -> int:
    if what == "digits":
        return len(seen.cells)
    words = what.split()
    if words[1:] == ["digits"]:
        return len(seen.where(colour=words[0]))
    assert words[:3] == ["digits", "in", "the"]
    return len(seen.where(**{words[4]: words[3]}))


def asked_back(seen: Seen, answer: str) -> set[str]:
    """All questions of three kinds that have this answer, and no other, in the scene."""
    right = set()
    for place, colour, digit in seen.cells:
        right |= {f"which digit is {place} ?"} if str(digit) == answer else set()
        right |= {f"which colour is {place} ?"} if colour == answer else set()
        right |= (
            {f"where is the {colour} {digit} ?"} if [c[0] for c in seen.where(colour, digit)] == [answer] else set()
        )
    return right


def beside(seen: Seen, name: str, side: str) -> str:
    row, column = only(seen.named(name))[0].split("-")
    filled = {cell[0].split("-")[1] for cell in seen.cells}
    grid = COLUMNS if "center" in filled else None
    step = 1 if side == "right" else -1
    if grid is None:  # two columns, or three with none in the middle: then only one neighbour is possible
        found = seen.where(row=row, column={1: "right", -1: "left"}[step])
    else:
        found = seen.where(row=row, column=grid[grid.index(column) + step])
    return str(only(found)[2])


def compared(seen: Seen, a: str, b: str, which: str) -> str:
    first, second = only(seen.where(colour=a))[2], only(seen.where(colour=b))[2]
    assert first != second
    return a if (first > second) == (which == "largest") else b


def extreme(seen: Seen, which: str) -> int:
    return {"largest": max, "smallest": min}[which](cell[2] for cell in seen.cells)


RIGHT = {
    "caption": lambda seen: {" , ".join(f"{place} {colour} {digit}" for place, colour, digit in seen.cells)},
    "describe": lambda seen: {" and ".join(f"a {colour} {digit}" for _, colour, digit in seen.cells)},
    "digit_at": lambda seen, place: {str(seen.places[place][1])},
    "colour_at": lambda seen, place: {seen.places[place][0]},
    "where": lambda seen, name: {only(seen.named(name))[0]},
    "count": lambda seen, what: {str(counted(seen, what))},
    "presence": lambda seen, name: {"yes" if seen.named(name) else "no"},
    "read_row": lambda seen, row: {" ".join(seen.line(row=row))},
    "choice": lambda seen, options: {only([name for name in options.split(" or ") if seen.named(name)])},
    "compare": lambda seen, a, b, which: {compared(seen, a, b, which)},
    "ask": asked_back,
    "colour_of": lambda seen, digit: {only(seen.where(digit=int(digit)))[1]},
    "digit_of": lambda seen, colour: {str(only(seen.where(colour=colour))[2])},
    "read_column": lambda seen, column: {" ".join(seen.line(column=column))},
    "extreme": lambda seen, which: {str(extreme(seen, which))},
    "extreme_colour": lambda seen, which: {only(seen.where(digit=extreme(seen, which)))[1]},
    "next_to": lambda seen, name, side: {beside(seen, name, side)},
}


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_right(name, records):
    for record in records[name]:
        want = RIGHT[name](Seen(record.meta["scene"]), **record.slots)
        assert set(record.answers) == want, record.slots
    assert len({record.answers for record in records[name]}) > (1 if name == "presence" else 3)


def test_questions_are_not_answered_by_guessing(records):
    """No answer of a short kind is so frequent that always giving it would look like skill."""
    for name in ("presence", "digit_at", "colour_at", "where", "digit_of", "extreme", "extreme_colour", "next_to"):
        counts = Counter(record.answers[0] for record in records[name])
        assert max(counts.values()) < 0.65 * SAMPLE, (name, counts)


def test_the_picture_shows_what_the_words_say():
    """Each filled cell holds ink of its colour, and each empty one holds none."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        scene = scenes.draw(rng)
        picture = scenes.render(scene, "test", rng)
        assert picture.shape == (scenes.SIZE, scenes.SIZE, 3)
        assert picture.dtype == np.uint8
        assert 2 <= len(scene.cells) <= scenes.MOST
        picture = np.asarray(Image.open(io.BytesIO(scenes.encode(picture))))  # as it is stored
        height, width = scenes.SIZE // scene.rows, scenes.SIZE // scene.columns
        filled = {(cell.row, cell.column): cell for cell in scene.cells}
        for i, row in enumerate(scenes.ROWS[scene.rows]):
            for j, column in enumerate(scenes.COLUMNS[scene.columns]):
                patch = picture[i * height : (i + 1) * height, j * width : (j + 1) * width].astype(float)
                brightest = patch.reshape(-1, 3)[np.argsort(patch.max(-1).ravel())[-9:]].mean(0)
                if (row, column) not in filled:
                    assert brightest.max() < 110, scene
                    continue
                nearest = min(scenes.COLOURS, key=lambda name: np.abs(brightest - scenes.COLOURS[name]).sum())
                assert nearest == filled[row, column].colour, scene


def test_records_hold_jpegs(records):
    for name in TASKS:
        image = Image.open(io.BytesIO(records[name][0].images[0]))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (scenes.SIZE, scenes.SIZE))


# Templates and words


@pytest.mark.parametrize("name", TASKS)
def test_every_template_fits_every_record(name, records):
    for record in records[name]:
        check(TEMPLATES, record)
    used = [fields(template) for template in TEMPLATES[name]]
    assert all(own == set(records[name][0].slots) for own in used)  # and asks for all that decides the answer
    assert len(set(TEMPLATES[name])) == len(TEMPLATES[name]) >= (8 if name in HELD_OUT else 16)


@pytest.mark.parametrize("name", HELD_IN)
def test_plain_inputs_are_the_slots_alone(name, records):
    check(PLAIN, records[name][0])
    assert PLAIN.keys() == HELD_IN.keys()
    for template in PLAIN[name]:
        assert fields(template) == set(records[name][0].slots)
        assert not template.format(**dict.fromkeys(records[name][0].slots, "")).strip()


def test_held_out_instructions_are_made_of_words_that_held_in_ones_have(records):
    """A held-out kind is new by its question, not by words that were never seen."""
    known = {
        word for name in HELD_IN for record in records[name] for text in instructions(record) for word in text.split()
    }
    for name in HELD_OUT:
        words = {word for record in records[name] for text in instructions(record) for word in text.split()}
        assert not words - known, name


def test_no_held_out_instruction_is_a_held_in_one(records):
    held_in = {text for name in HELD_IN for record in records[name] for text in instructions(record)}
    held_out = {text for name in HELD_OUT for record in records[name] for text in instructions(record)}
    assert not held_in & held_out


def test_both_tokenizers_know_all_words_and_the_configured_lengths_hold_them(processor, records):
    config = CONFIG["get_config"]()
    longest = Counter()
    for name in TASKS:
        for record in records[name][:30]:
            for text in instructions(record):
                assert not processor.tokenizer.unknown(text)
                assert not processor.qformer.unknown(text)
                row = processor.encode(text, record.answers[0])
                longest["instruction"] = max(
                    longest["instruction"], len(row["input_ids"]), len(row["qformer_input_ids"])
                )
                longest["response"] = max(longest["response"], len(row["labels"]))
            for answer in record.answers:
                assert not processor.tokenizer.unknown(answer)
                (back,) = processor.decode(processor.encode("x", answer)["labels"][None])
                assert back == answer
    assert longest["instruction"] <= max(config.data.instruction_lengths)
    assert longest["response"] <= max(config.data.response_lengths)
    assert longest["response"] <= config.evaluation.max_new_tokens


# Preparing


@pytest.fixture
def small(monkeypatch):
    """Sets of few records, in several chunks."""
    monkeypatch.setattr(prepare, "split_size", lambda name, split: 0 if name in HELD_OUT and split == "train" else 7)
    monkeypatch.setattr(prepare, "CHUNK", 3)


def test_preparing_writes_what_is_missing_in_several_processes(small, tmp_path, capsys):
    toys.write_sets(tmp_path, {"count": 4}, evaluated=2)
    prepare.prepare_missing(tmp_path, ("count", "where", "digit_of", "somebody_elses"))
    assert "writing 2 digits sets" in capsys.readouterr().out
    assert len(prepared.open_set(tmp_path, "count", "train")) == 4  # was there, is left
    assert not prepared.is_prepared(tmp_path, "somebody_elses")
    for name, splits in {"where": ["train", "validation", "test"], "digit_of": ["validation", "test"]}.items():
        for split in splits:
            source = prepared.open_set(tmp_path, name, split)
            got = sorted((source[n] for n in range(len(source))), key=lambda record: record.uid)
            assert got == list(make(name, split, 0, 7))
    with pytest.raises(ValueError, match="no split 'train'"):
        prepared.open_set(tmp_path, "digit_of", "train")
    prepare.prepare_missing(tmp_path, ("count", "where", "digit_of"))
    assert prepare.prepare(tmp_path, ("where",)) == {}
    assert capsys.readouterr().out == ""
