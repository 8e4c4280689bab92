"""What a search costs and refuses: programs compiled once, images encoded once, an early end; options checked."""

import re

import families
import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.decoding.options import Options
from instructblip_jax.decoding.search import widths

FAMILY = "instructblip"
SIDE = 30
NO_NUMBERS = (float("nan"), float("inf"), 1e39)  # the last one is infinite in float32


@pytest.fixture(scope="module")
def model():
    return ib.InstructBlip.from_pretrained(families.GOLDENS / FAMILY, dtype="float32")


@pytest.fixture(scope="module")
def processor():
    return ib.Processor.from_pretrained(families.GOLDENS / FAMILY)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Image.fromarray(pixels)


def test_other_numbers_compile_nothing_new(model):
    batch = families.prompts(FAMILY, 0)
    ib.generate_ids(model, batch, num_beams=2, max_new_tokens=9, repetition_penalty=1.5)
    ib.generate_ids(model, batch, max_new_tokens=9)
    ib.generate_ids(model, batch, do_sample=True, max_new_tokens=9, top_p=0.9)
    programs = [model._prefill, model._search, model._encode]
    before = [program._cache_size() for program in programs]
    assert before[0] == before[2] == 1  # a prompt is read, an image encoded, the same way whatever is asked of it
    other = families.prompts(FAMILY, 1)
    for penalty, length in ((2.0, 16), (-0.5, 3)):
        ib.generate_ids(
            model, other, num_beams=2, max_new_tokens=length, repetition_penalty=1.1, length_penalty=penalty
        )
    ib.generate_ids(model, other, max_new_tokens=16, min_new_tokens=4)
    ib.generate_ids(model, other, do_sample=True, max_new_tokens=2, top_p=0.4, temperature=0.3, seed=9)
    assert [program._cache_size() for program in programs] == before


def test_a_picture_is_encoded_once_however_many_instructions_it_gets(model, processor, monkeypatch):
    encoded = []
    encode = model.encode

    def counting(batch, **options):
        encoded.append(len(batch["pixel_values"]))
        return encode(batch, **options)

    monkeypatch.setattr(model, "encode", counting)
    texts = ["how many people are there ?", "is it raining ?", "which colour is the car ?"]
    one = ib.generate(model, processor, picture(0), texts, max_new_tokens=6)
    assert encoded == [1]
    a, b = picture(0), picture(1)
    mixed = ib.generate(model, processor, [a, b, a], texts, max_new_tokens=6)
    assert encoded == [1, 2]
    assert [mixed[0], mixed[2]] == [one[0], one[2]]
    ib.rank(model, processor, [a, a, a], texts, ["yes", "no"])
    assert encoded == [1, 2, 1]


def test_a_batch_whose_rows_have_all_ended_stops(model):
    batch = families.prompts(FAMILY, 2)
    ids = ib.generate_ids(model, batch, max_new_tokens=64, eos_token_id=range(model.config.text.vocab_size))
    assert ids.shape == (4, 1)
    options = Options.of(ends=(1,), pad=0, vocabulary=model.config.text.vocab_size, max_new_tokens=64)
    context = model.prefill(model.encode(batch), batch)
    out = model.search(context, options)
    assert out.shape == (4, 1, 64)
    longest = int(widths(out, options).max())
    assert longest < 64
    assert not out[:, :, longest:].any()


def test_several_end_tokens_and_what_follows_them(model):
    batch = families.prompts(FAMILY, 2)
    free = families.endless(FAMILY, batch, max_new_tokens=8)
    ends = [int(free[0, 2]), int(free[1, 4])]
    got = ib.generate_ids(model, batch, max_new_tokens=8, eos_token_id=ends)
    for row, whole in zip(got, free, strict=True):
        stop = next((n for n, token in enumerate(whole) if token in ends), 8) + 1
        assert row[:stop].tolist() == whole[:stop].tolist()
        assert not row[stop:].any()


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4}], ids=str)
def test_a_stream_is_the_answer_in_pieces(model, processor, every, options):
    asked = (picture(2), "describe the picture in detail")
    want = ib.generate(model, processor, *asked, max_new_tokens=20, min_new_tokens=12, **options)[0]
    got = list(ib.stream(model, processor, *asked, every=every, max_new_tokens=20, min_new_tokens=12, **options))
    assert "".join(got) == want
    assert all(got)
    assert (len(got) > 2) == ("num_beams" not in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; a whole number from 1"),
        ({"max_new_tokens": 2_000_000_000}, "max_new_tokens is 2000000000; a whole number from 1 to 65536"),
        ({"num_beams": 2.0}, "num_beams is 2.0"),
        ({"num_beams": 1_000_000}, "num_beams is 1000000; a whole number from 1 to 1024"),
        ({"num_return_sequences": 10**9, "do_sample": True}, "num_return_sequences is 1000000000"),
        ({"min_new_tokens": 70}, "min_new_tokens 70 is more than max_new_tokens 64"),
        ({"temperature": 0.0, "do_sample": True}, "temperature is 0.0; a finite number above 0 .* leave do_sample off"),
        *(({"temperature": bad}, f"temperature is {re.escape(str(bad))}") for bad in NO_NUMBERS),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0; a finite number above 0 is needed, 1 for none"),
        *(({"repetition_penalty": bad}, f"repetition_penalty is {re.escape(str(bad))}") for bad in NO_NUMBERS),
        *(({"length_penalty": bad}, f"length_penalty is {re.escape(str(bad))}; a finite number") for bad in NO_NUMBERS),
        ({"length_penalty": 10**400}, "length_penalty is 10000"),
        ({"length_penalty": "long"}, "length_penalty is 'long'"),
        ({"length_penalty": True}, "length_penalty is True"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"eos_token_id": []}, r"eos_token_id is \[\]; a token id from 0 to 345 .* or a list"),
        *(
            ({"eos_token_id": bad}, f"eos_token_id is {re.escape(repr(bad))}; a token id from 0 to 345")
            for bad in (10**6, 346, -1, True, 1.0, "1", [1, 10**6], [1, None], [True], [[1]], [1.0])
        ),
        ({"top_p": 1.2}, "top_p is 1.2"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"),
        ({"num_return_sequences": 2}, "num_return_sequences 2 is more than num_beams 1"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences 3 is more than num_beams 2"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(model, processor, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        ib.generate(model, processor, picture(0), "is it raining ?", **options)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_hugging_faces():
    options = Options.of(ends=1, pad=0, vocabulary=5)
    numbers = {"length_penalty": 1.0, "repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
    counts = {"num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": 0, "min_new_tokens": 0}
    switches = {"do_sample": False, "early_stopping": False, "penalize_prompt": False}
    assert {name: getattr(options, name) for name in numbers | counts | switches} == numbers | counts | switches
    assert options.max_new_tokens == 64  # ours: theirs is 20 tokens with the prompt


def test_whole_numbers_of_numpy_are_end_tokens_too(model):
    batch = families.prompts(FAMILY, 2)
    free = families.endless(FAMILY, batch, max_new_tokens=8)
    for ends in (free[0, 2], free[0, 2:3], (int(free[0, 2]),)):
        got = ib.generate_ids(model, batch, max_new_tokens=8, eos_token_id=ends)
        assert got[0, :3].tolist() == free[0, :3].tolist()
        assert not got[0, 3:].any()


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_logits_that_are_no_numbers_are_no_empty_answer(processor, options):
    model = ib.InstructBlip.from_pretrained(families.GOLDENS / FAMILY, dtype="float32")
    broken = "llm/decoder/norm/scale"
    model.frozen[broken] = model.frozen[broken].at[3].set(np.nan)
    asked = (model, processor, picture(0), "is it raining ?")
    words = rf"{FAMILY}: the model's logits are not numbers"
    with pytest.raises(ValueError, match=words):
        ib.generate(*asked, max_new_tokens=3, **options)
    with pytest.raises(ValueError, match=words):
        list(ib.stream(*asked, max_new_tokens=3, **options))
    if not options:
        with pytest.raises(ValueError, match=words):
            ib.rank(*asked, ["yes", "no"])
        with pytest.raises(ValueError, match=words):
            ib.rank(*asked, [["yes"]], normalize=True)


def test_an_option_that_does_not_exist_is_refused(model, processor):
    with pytest.raises(TypeError, match="beam_count"):
        ib.generate(model, processor, picture(0), "is it raining ?", beam_count=3)
    with pytest.raises(TypeError, match="num_beam is no option: did you mean num_beams"):
        ib.generate(model, processor, picture(0), "is it raining ?", num_beam=3)
    with pytest.raises(AttributeError, match=r"use instructblip_jax.generate\(model, ...\)"):
        model.generate(picture(0))
    with pytest.raises(ValueError, match="num_return_sequences at 1"):
        list(ib.stream(model, processor, picture(0), "?", num_beams=2, num_return_sequences=2))


@pytest.mark.parametrize(
    ("family", "runs"),
    [("instructblip", ({}, {"num_beams": 3, "length_penalty": 0.5})), ("llama", ({"num_beams": 3},))],
)
def test_eight_devices_give_the_answers_of_one(family, runs):
    mesh = ib.make_mesh(data=2, fsdp=2, tensor=2)
    one, eight = families.model(family), ib.InstructBlip.from_pretrained(families.directory(family), mesh, "float32")
    batch = families.prompts(family, 6)
    for options in runs:
        want = ib.generate_ids(one, batch, max_new_tokens=12, **options)
        assert len(np.unique(want)) > 3
        np.testing.assert_array_equal(ib.generate_ids(eight, batch, max_new_tokens=12, **options), want)
    assert len(eight.encode(batch)["image"].sharding.device_set) == 8
