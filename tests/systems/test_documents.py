"""A visit reads a part of a document, which becomes rows of static batches."""

import copy
import dataclasses
import io

import minis
import numpy as np
import pytest
from PIL import Image

from instructblip_jax.data import documents
from instructblip_jax.data.documents import DocumentsConfig
from instructblip_jax.data.loader import training_batches
from instructblip_jax.data.record import Medium, Record
from instructblip_jax.processor import Processor
from instructblip_jax.processors.base import IGNORE
from instructblip_jax.processors.llava import LlavaProcessor
from instructblip_jax.recipes.documents import FLAMINGO, KOSMOS, OPEN_FLAMINGO
from instructblip_jax.validation import HeldOut

SAID = "is there a seven in the picture and a red digit above it ? yes . no"
WORDS = SAID.split()


class Reading(LlavaProcessor):
    """Learns all words of a document, and the token that ends it."""

    def document(self, parts):
        image = self.config.image_token_id
        ids, _ = self.tokenizer.joined([image if isinstance(part, int) else part for part in parts])
        ids = np.append(ids, np.int32(self.end_id))
        labels = np.where(ids == image, IGNORE, ids)
        labels[0] = IGNORE  # begins the text
        times = np.where(ids == image, self.config.tokens_per_picture, 1)
        return {"input_ids": np.repeat(ids, times), "labels": np.repeat(labels, times)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Processor.from_pretrained(minis.write(tmp_path_factory.mktemp("documents") / "llava", "llava"))


@pytest.fixture(scope="module")
def processor(plain):
    reading = copy.copy(plain)
    reading.__class__ = Reading
    return reading


def png(grey):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (grey,) * 3).save(buffer, "PNG")
    return Medium("image", buffer.getvalue())


def said(count, seed=0):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def document(pictures=0, words=4, uid="d", last=True):
    """A text before each picture, and one behind the ``last``."""
    parts = [piece for n in range(pictures) for piece in (said(words, n), n)]
    parts += [said(words, 99)] if last or not pictures else []
    media = tuple(png(10 * n + 9) for n in range(pictures))
    return Record(f"own/{uid}", "own", "train", "document", media, {}, (), parts=tuple(parts))


def read(record, processor, seed=0, longest=1000, following=(), **fields):
    rng = np.random.default_rng(seed)
    return documents.read(record, rng, processor, DocumentsConfig(**fields), longest, following)


def words_of(processor, row):
    return processor.decode(row["input_ids"][None])[0]


def test_a_document_is_read_whole_if_it_fits(processor):
    found = read(document(3), processor)
    np.testing.assert_array_equal(found.row["input_ids"], processor.document(document(3).parts)["input_ids"])
    assert found.shown == (0, 1, 2)


def test_a_longer_one_loses_its_end_and_no_picture_is_cut(processor):
    whole = processor.document(document(3).parts)
    slots = processor.config.tokens_per_picture
    for limit in range(1, 24):
        found = read(document(3), processor, longest=limit)
        ids = found.row["input_ids"]
        np.testing.assert_array_equal(ids, whole["input_ids"][: len(ids)])
        assert sum(processor.lengths(found.row)) == min(limit, sum(processor.lengths(whole)))
        assert processor.picture_tokens(ids).sum() == slots * len(found.shown)
        assert found.shown == tuple(range(len(found.shown)))
    assert read(document(3), processor, longest=50, tokens=7).row["input_ids"].size == 7 + slots
    fewer = read(document(3), processor, pictures=2)
    assert fewer.shown == (0, 1)
    first, second, *rest = (part for part in document(3).parts if isinstance(part, str))
    want = processor.document([first, 0, second, 1, " ".join(rest)])
    np.testing.assert_array_equal(fewer.row["input_ids"], want["input_ids"])


def test_flamingo_reads_a_window_and_its_first_five_pictures(processor):
    record = document(9, words=3)
    shown, starts = set(), set()
    for seed in range(60):
        found = read(record, processor, seed, longest=24, **FLAMINGO)
        again = read(record, processor, seed, longest=24, **FLAMINGO)
        np.testing.assert_array_equal(found.row["input_ids"], again.row["input_ids"])
        assert len(found.shown) <= 5
        assert found.shown == tuple(range(found.shown[0], found.shown[0] + len(found.shown)))
        assert sum(processor.lengths(found.row)) <= 24
        shown.update(found.shown)
        starts.add(found.shown[0])
    assert shown == set(range(9))
    assert {0, 1, 2, 3} <= starts


def test_a_window_begins_with_a_whole_word(processor):
    record = document(0, words=200)
    known = {*WORDS}
    for seed in range(20):
        row = read(record, processor, seed, longest=20, **FLAMINGO).row
        assert words_of(processor, row).split()[0] in known


@pytest.mark.parametrize("rule", [OPEN_FLAMINGO, KOSMOS])
def test_half_of_the_visits_pass_over_a_single_picture(processor, rule):
    passed = sum(read(document(1), processor, seed, **rule) is None for seed in range(200))
    assert 80 <= passed <= 120
    assert all(read(document(2), processor, seed, **rule) is not None for seed in range(20))
    alone = [read(document(1, last=False), processor, seed, **rule) is None for seed in range(20)]
    assert all(alone) == (rule is OPEN_FLAMINGO)  # nothing is learnt from a picture at the end
    most = rule["pictures"]
    assert read(document(8), processor, **rule).shown == tuple(range(most))


def test_texts_are_packed_by_whole_sentences(processor):
    sentences = [[f"{said(4, 10 * n + k)} {k} ." for k in range(3)] for n in range(6)]
    texts = [dataclasses.replace(document(uid=str(n)), parts=(" ".join(own),)) for n, own in enumerate(sentences)]
    begin, end = processor.document([""])["input_ids"]
    firsts, full = set(), []
    for seed in range(20):
        found = read(texts[0], processor, seed, longest=40, following=[document(2), *texts[1:]], **KOSMOS)
        ids = found.row["input_ids"]
        assert (ids[0], ids[-1], found.shown) == (begin, end, ())
        assert np.count_nonzero(found.row["labels"] == IGNORE) == np.count_nonzero(ids == begin)
        pieces = [processor.tokenizer.decode(piece) for piece in np.split(ids, np.flatnonzero(ids == end)[:-1] + 1)]
        wanted = [[processor.tokenizer.decode(processor.tokenizer.encode(one)) for one in own] for own in sentences]
        first = next(n for n, one in enumerate(wanted[0]) if pieces[0].startswith(one))
        assert pieces[0] == " ".join(wanted[0][first:])
        for n, piece in enumerate(pieces[1:], 1):
            assert " ".join(wanted[n]).startswith(piece)
            assert piece == " ".join(wanted[n]) or n == len(pieces) - 1
        firsts.add(first)
        full.append(len(ids) <= 40)
    assert firsts == {0, 1, 2}
    assert all(full)


def test_a_sentence_longer_than_a_row_is_cut(processor):
    long = dataclasses.replace(document(), parts=("seven " * 90,))
    row = read(long, processor, longest=12, **KOSMOS).row
    assert len(row["input_ids"]) == 12


def batches(records, processor, **options):
    options = {"instruction_lengths": (4,), "response_lengths": (32,), "batch_size": 4, "seed": 0} | options
    return training_batches({"own": records}, {"own": 1.0}, processor, {}, **options)


RECORDS = [document(n, uid=str(n)) for n in range(9)]


def test_rows_of_different_numbers_of_pictures_share_batches_and_a_resumed_run_sees_the_same(processor):
    held = processor.holding((5,))
    options = {"documents": DocumentsConfig(**FLAMINGO)}
    first = batches(RECORDS, held, **options)
    wanted = [next(first) for _ in range(12)]
    arrays = [{key: x for key, x in one.items() if key not in ("uid", "passed")} for one in wanted]
    assert len({tuple((key, x.shape, x.dtype.str) for key, x in one.items()) for one in arrays}) == 1
    assert arrays[0]["pixel_values"].shape[:2] == (4, 5)
    counts = set()
    for one in arrays:
        for ids, pixels in zip(one["input_ids"], one["pixel_values"], strict=True):
            count = held.pictures_in(ids)
            assert not pixels[count:].any() or not count
            counts.add(count)
    assert counts == set(range(6))
    again = batches(RECORDS, held, **options)
    again.set_state({"next_index": 7})
    for one in arrays[7:]:
        for key, x in next(again).items():
            if key in one:
                np.testing.assert_array_equal(x, one[key])


def test_a_window_shows_its_own_pictures(processor, monkeypatch):
    """Kept with the record, or read again when the batch is made."""
    held, options = processor.holding((5,)), {"documents": DocumentsConfig(**FLAMINGO | {"tokens": 14})}
    kept = next(batches(RECORDS[6:], held, **options))
    monkeypatch.setattr("instructblip_jax.data.loader.KEPT", 0)
    read_again = next(batches(RECORDS[6:], held, **options))
    for key in ("input_ids", "pixel_values", "pixel_values_scale"):
        np.testing.assert_array_equal(kept[key], read_again[key])
    greys = {int(pixels[0].max()) for pixels in kept["pixel_values"]}
    assert len(greys) > 1
    assert greys <= {10 * n + 9 for n in range(9)}


def test_systems_that_read_no_documents_say_so(plain):
    with pytest.raises(ValueError, match=r"own/[01]: LlavaProcessor reads no documents"):
        next(batches(RECORDS[:2], plain))


def test_documents_are_validated(processor):
    held = HeldOut(
        RECORDS,
        processor.holding((6,)),
        {},
        rows=4,
        shapes=[(4, 40)],
        seed=0,
        own=np.arange(4),
        documents=DocumentsConfig(**OPEN_FLAMINGO),
    )
    first, second = (list(held), list(held))
    assert held.taken + held.left_out == len(RECORDS)
    assert held.taken >= 7
    assert [one["pixel_values"].shape[:2] for one in first] == [(4, 6)] * len(first)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])


def test_fields_are_checked():
    with pytest.raises(ValueError, match=r"documents\.pass_single is 1.0; it is at least 0, and below 1"):
        DocumentsConfig(pass_single=1.0).check()
    with pytest.raises(ValueError, match=r"documents\.pictures is -1"):
        DocumentsConfig(pictures=-1).check()
