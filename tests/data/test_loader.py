"""The stream of training batches: a function of configuration, seed and step alone; and the evaluation batches."""

import hashlib
import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from instructblip_jax.data import loader
from instructblip_jax.data.loader import WINDOW, training_batches
from instructblip_jax.data.mixture import probabilities
from instructblip_jax.data.prepared import open_set
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.data.visits import Visit
from instructblip_jax.datasets.digits.templates import TEMPLATES

INSTRUCTION_LENGTHS, RESPONSE_LENGTHS = (12, 20, 40), (4, 24)
BATCH = 8


@pytest.fixture(scope="module")
def batches(sources, processor):
    """Makes an iterator; what is not said is the default."""

    def make(**changes):
        options = {
            "batch_size": BATCH,
            "instruction_lengths": INSTRUCTION_LENGTHS,
            "response_lengths": RESPONSE_LENGTHS,
            "seed": 5,
        }
        own = changes.pop("sources", sources)
        shares = changes.pop("shares", None) or probabilities({name: len(source) for name, source in own.items()})
        templates = changes.pop("templates", TEMPLATES)
        return training_batches(own, shares, processor, templates, **(options | changes))

    return make


def take(iterator, count: int) -> list[dict]:
    return [next(iterator) for _ in range(count)]


def digest(batch: dict) -> str:
    arrays = {name: np.asarray(x) for name, x in sorted(batch.items())}
    parts = [f"{name}{x.shape}{x.dtype}".encode() + x.tobytes() for name, x in arrays.items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digests(iterator, count: int) -> list[str]:
    return [digest(batch) for batch in take(iterator, count)]


def keys(batch: dict) -> list[bytes]:
    """What tells pictures apart."""
    return [row.tobytes() for row in batch["pixel_values"]]


STEPS = 5 * WINDOW + 3


@pytest.fixture(scope="module")
def uninterrupted(batches):
    return digests(batches(), STEPS)


def test_the_same_seed_gives_the_same_stream_and_another_seed_another(batches, uninterrupted):
    assert digests(batches(), STEPS) == uninterrupted
    assert len(set(uninterrupted)) == STEPS
    assert not set(digests(batches(seed=6), STEPS)) & set(uninterrupted)


@pytest.mark.parametrize("cut", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 10, 2 * WINDOW, 13, 19])
def test_a_stream_that_is_cut_anywhere_goes_on_where_it_was(batches, uninterrupted, cut):
    first = batches()
    got = digests(first, cut)
    state = json.loads(json.dumps(first.get_state()))
    second = batches()
    second.set_state(state)
    assert got + digests(second, STEPS - cut) == uninterrupted
    first.set_state(state)  # one that has run on may be set back, too
    assert digests(first, 3) == uninterrupted[cut : cut + 3]


def test_a_stream_may_be_cut_again_and_again(batches, uninterrupted):
    rng, state, got = np.random.default_rng(0), None, []
    while len(got) < STEPS:
        iterator = batches()
        if state is not None:
            iterator.set_state(state)
        got += digests(iterator, int(rng.integers(1, 6)))
        state = json.loads(json.dumps(iterator.get_state()))
    assert got[:STEPS] == uninterrupted


def test_asking_for_the_state_changes_nothing_and_it_stays_small(batches, uninterrupted):
    iterator, got = batches(), []
    for _ in range(STEPS):
        assert len(json.dumps(iterator.get_state())) < 500
        got.append(digest(next(iterator)))
    assert got == uninterrupted


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_hosts_together_have_the_batch_of_one_host(batches, count):
    whole = batches()
    own = [np.arange(BATCH)[n::count] for n in range(count)]
    hosts = [batches(own=rows) for rows in own]
    for _ in range(WINDOW + 2):
        want = next(whole)
        parts = [next(host) for host in hosts]
        for rows, part in zip(own, parts, strict=True):
            assert part.keys() == want.keys()
            assert part["uid"] == [want["uid"][n] for n in rows]
            assert part["passed"] == want["passed"]
            for name in want.keys() - {"uid", "passed"}:
                np.testing.assert_array_equal(part[name], want[name][rows])
        states = {json.dumps(host.get_state()) for host in hosts} | {json.dumps(whole.get_state())}
        assert len(states) == 1  # so that a run may be resumed on another number of hosts


def test_a_host_decodes_its_own_pictures_only(batches, monkeypatch):
    decoded, media = [], loader.media_of

    def seen(record, *args):
        decoded.append(record.uid)
        return media(record, *args)

    monkeypatch.setattr(loader, "media_of", seen)
    rows = np.array([1, 6])
    count = 30 * WINDOW  # beside which the windows that are read ahead are few
    own = [uid for batch in take(batches(own=rows), count) for uid in batch["uid"]]
    assert set(own) <= set(decoded)
    assert len(decoded) <= 2 * len(own)  # all rows would be four times
    monkeypatch.undo()
    assert own == [batch["uid"][n] for batch in take(batches(), count) for n in rows]


def test_rows_come_with_their_records_name_and_set(batches, sources, processor):
    known = {}
    for number, source in enumerate(sources.values()):
        known |= {source[n].uid: (number, source[n]) for n in range(len(source))}
    for batch in take(batches(), 8):
        assert batch["set"].dtype == np.int32
        for n, uid in enumerate(batch["uid"]):
            number, record = known[uid]
            assert batch["set"][n] == number
            np.testing.assert_array_equal(batch["pixel_values"][n], processor.image.pixels(record.images[0]))


def test_sets_are_drawn_as_often_as_their_probabilities_say(batches, processor):
    marks = {"caption": "which", "digit_at": "where", "count": "read"}
    shares = {"caption": 0.5, "digit_at": 0.37, "count": 0.13}
    iterator = batches(shares=shares, templates={name: [word] for name, word in marks.items()})
    drawn = Counter()
    steps = 80
    for batch in take(iterator, steps):
        drawn.update(processor.decode(batch["input_ids"]))
    for name, share in shares.items():
        assert abs(drawn[marks[name]] - share * steps * BATCH) <= 3, drawn


def test_only_the_given_lengths_occur_and_all_of_them(batches):
    seen = Counter()
    for batch in take(batches(), 30):
        texts = {batch[name].shape for name in batch if "ids" in name or "mask" in name}
        assert len(texts) == 1
        assert batch["pixel_values"].shape[0] == BATCH
        seen[texts.pop()[1], batch["labels"].shape[1]] += 1
    assert {text for text, _ in seen} <= set(INSTRUCTION_LENGTHS)
    assert {answer for _, answer in seen} == set(RESPONSE_LENGTHS)
    # Sorted windows: most batches of short answers stay short although a third of the samples are captions.
    assert sum(count for (_, answer), count in seen.items() if answer == min(RESPONSE_LENGTHS)) >= 8


def test_every_pass_has_each_record_once_in_another_order(batches, sources):
    """24 records are three quarters of a window: four passes are three windows."""
    records = len(sources["digit_at"])
    iterator = batches(sources={"digit_at": sources["digit_at"]})
    rows = [key for batch in take(iterator, 3 * WINDOW) for key in keys(batch)]
    counts = Counter(rows)
    assert len(counts) == records
    assert set(counts.values()) == {4}


def test_passes_differ_in_order(sources, processor):
    """Without the sorting by length there is nothing to see but the shuffling: every text is the same."""
    own = {"digit_at": sources["digit_at"]}
    iterator = training_batches(
        own,
        {"digit_at": 1.0},
        processor,
        {"digit_at": ["which digit ?"]},
        batch_size=6,
        instruction_lengths=(12,),
        response_lengths=(4,),
        seed=0,
    )
    passes = [[key for batch in take(iterator, 4) for key in keys(batch)] for _ in range(3)]  # a window is a pass
    assert {frozenset(rows) for rows in passes} == {frozenset(passes[0])}
    assert len(set(map(tuple, passes))) == 3


def test_picture_instruction_and_answer_of_a_row_belong_together(batches, sources, processor):
    known: dict[bytes, Record] = {}
    for source in sources.values():
        for record in (source[n] for n in range(len(source))):
            known[processor.image.pixels(record.images[0]).tobytes()] = record
    instructions = Counter()
    for batch in take(batches(), 24):
        for n, key in enumerate(keys(batch)):
            record = known[key]
            labels = batch["labels"][n]
            (answer,) = processor.decode(labels[labels != -100][None])
            assert answer in record.answers, record
            possible = [template.format(**record.slots) for template in TEMPLATES[record.dataset]]
            rows = {name: batch[name][n][batch[name.replace("input_ids", "attention_mask")][n] == 1] for name in IDS}
            fits = [text for text in possible if same(processor.encode(text), rows)]
            assert len(fits) == 1, record
            instructions[record.uid, fits[0]] += 1
    visits = Counter(uid for uid, _ in instructions)
    assert max(visits.values()) > 3  # a record's template is drawn anew at each visit
    assert set(visits) == {record.uid for record in known.values()}


IDS = ("input_ids", "qformer_input_ids")


def same(a: dict, b: dict) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in IDS)


def test_all_answers_of_a_record_are_trained_on(processor, prepared):
    record = open_set(prepared, "count", "train")[0]
    own = Record(record.uid, "own", "train", "vqa", record.media, {}, ("1", "2", "3"), instruction="which digit ?")
    iterator = training_batches(
        {"own": [own]},
        {"own": 1.0},
        processor,
        {},
        batch_size=6,
        instruction_lengths=(12,),
        response_lengths=(4,),
        seed=0,
    )
    answers = Counter(text for batch in take(iterator, 20) for text in decoded(processor, batch["labels"]))
    assert set(answers) == {"1", "2", "3"}
    assert min(answers.values()) > 20
    assert set(processor.decode(next(iterator)["input_ids"])) == {"which digit ?"}


def decoded(processor, labels: np.ndarray) -> list[str]:
    return processor.decode(np.where(labels == -100, 0, labels))


def test_blank_images_leave_the_texts_as_they_are(batches):
    for seen, blank in zip(take(batches(), 5), take(batches(blank_image=True), 5), strict=True):
        assert not blank["pixel_values"].any()
        assert seen["pixel_values"].any()
        for name in blank.keys() - {"pixel_values", "pixel_values_scale", "uid"}:
            np.testing.assert_array_equal(seen[name], blank[name])


def own_record(**changes) -> Record:
    fields = {
        "uid": "own/train/0",
        "dataset": "own",
        "split": "train",
        "task": "vqa",
        "media": (Medium("image", b"no picture"),),
        "slots": {"what": "digit"},
        "answers": ("1",),
    }
    return Record(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "templates", "words"),
    [
        ({}, {"own": ["which {what} ?"]}, ["own/train/0", "'own'", "prepare"]),
        ({"answers": ()}, {"own": ["which {what} ?"]}, ["own/train/0", "no answer"]),
        ({}, {"own": ["which {digit} ?"]}, ["'own'", "digit", "what"]),
        ({}, {}, ["'own'", "template"]),
    ],
    ids=["broken picture", "no answer", "wrong field", "no templates"],
)
def test_records_that_cannot_be_trained_on_are_named(batches, changes, templates, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        next(batches(sources={"own": [own_record(**changes)]}, shares={"own": 1.0}, templates=templates))
    for word in words:
        assert word in str(caught.value)


def test_a_text_longer_than_all_lengths_names_the_field(batches):
    with pytest.raises(ValueError, match=r"caption/train/\d+: .* too long .*data\.response_lengths, .* 12 and 3"):
        take(batches(instruction_lengths=(12,), response_lengths=(3,)), WINDOW)
    with pytest.raises(ValueError, match=r"too long .*data\.instruction_lengths .* 2 and 24"):
        take(batches(instruction_lengths=(1, 2)), WINDOW)


def test_a_window_is_cut_into_batches_of_the_same_samples():
    """Cutting by length loses and doubles nothing, and batches do not overlap in length."""
    rng = np.random.default_rng(0)
    lengths = [(5, int(rng.integers(1, 9))) for _ in range(32)]
    visits = [Visit({}, pair) for pair in lengths]
    examples = [loader._Example(own_record(uid=f"own/train/{n}"), 0, one) for n, one in enumerate(visits)]
    parts = loader._cut(examples, BATCH, [(5, 9)])
    assert [len(part) for part in parts] == [BATCH] * WINDOW
    assert {example.record.uid for part in parts for example in part} == {f"own/train/{n}" for n in range(32)}
    spans = sorted((part[-1].visit.lengths[1], part[0].visit.lengths[1]) for part in parts)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
