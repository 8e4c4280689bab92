"""X-InstructBLIP's prompts in either form, and the media of public calls."""

import dataclasses

import numpy as np
import pytest
import toys
import x_toys

import instructblip_jax as ib
from instructblip_jax.systems.x_instructblip import Prompt

CLEAN = Prompt("USER: ", "\nASSISTANT:", clean=True)
SOUND = (np.sin(np.arange(4000) / 9.0), 16000)
CLOUD = np.random.default_rng(0).standard_normal((30, 3))
PICTURE = np.full((20, 20, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return ib.Processor.from_pretrained(x_toys.write_model(tmp_path_factory.mktemp("x") / "model"))


@pytest.fixture
def processor(made):
    """With a configuration that a test may change."""
    own = made.config
    yield made
    made.config = own


def prompted(processor, *, kinds=("audio", "points"), training=False, **form):
    processor.config = dataclasses.replace(processor.config, prompt=dataclasses.replace(Prompt(), **form))
    ids = processor.encode(" is it a 3 ? ", pictures=kinds, training=training)["input_ids"]
    names = {processor.config.token_id(name): f"<{name}>" for name in x_toys.ENTRIES} | {2: "</s>"}
    return "".join(names.get(n) or processor.tokenizer.token(n) for n in ids.tolist()).replace("▁", " ")


def test_the_begin_token_stands_before_every_cue_and_the_instruction(processor):
    got = prompted(processor)
    assert got == "</s> audio :" + "<audio>" * 6 + "</s> 3d :" + "<pc>" * 3 + "</s> is it a 3 ?"


def test_in_the_clean_form_it_stands_before_everything(processor):
    got = prompted(processor, **dataclasses.asdict(CLEAN))
    assert got.count("</s>") == 1
    assert got.startswith("</s>")
    assert got.index("<audio>") < got.index("<pc>") < got.index("is it a 3")
    assert got.count("<audio>") == 6  # no block occurs twice


def test_without_cues_media_follow_one_another(processor):
    assert prompted(processor, cues=False).startswith("<audio>" * 6 + "<pc>" * 3 + "</s>")


def test_a_blank_behind_each_medium_is_for_answers_alone(processor):
    plain, spaced = (processor.tokenizer.encode(text, special=False) for text in ("a", " "))
    assert len(plain)
    lengths = [len(prompted(processor, add_space=True, cues=False, training=training)) for training in (True, False)]
    assert (lengths[1] > lengths[0]) == bool(len(spaced))


def test_the_order_of_media_is_that_of_the_row(processor):
    got = prompted(processor, kinds=("points", "frame", "frame", "audio", "points"))
    marks = [part for part in got.replace(">", "<").split("<") if part in x_toys.ENTRIES]
    assert list(dict.fromkeys(marks)) == ["pc", "video", "audio"]
    assert [marks.count(name) for name in ("pc", "video", "audio")] == [6, 6, 6]


def test_public_calls_take_media_by_name_in_any_number(processor):
    batch = processor(
        [PICTURE, None],
        ["is it a 3 ?", "what is it ?"],
        ["yes", "a 7"],
        media={"pc": [CLOUD, [CLOUD, CLOUD]], "audio": [None, SOUND], "video": [None, [PICTURE] * 5]},
    )
    counts = {key: x.shape[1] for key, x in batch.items() if key.endswith("values")}
    assert counts == {"pixel_values": 1, "point_values": 2, "audio_values": 1, "video_values": 1}
    assert batch["video_values"].shape[2] == processor.config.frames
    for key in ("pixel_values", "point_values"):
        assert not np.abs(batch[key][int(key == "pixel_values"), -1]).any()
    pc, image = processor.config.token_id("pc"), processor.config.token_id("image")
    first = batch["input_ids"][0].tolist()
    assert first.index(image) < first.index(pc)
    second = batch["input_ids"][1]
    assert (second == pc).sum() == 6
    assert image not in second
    alone = processor(instructions="is it a 3 ?", media={"audio": [SOUND]})
    assert {key for key in alone if key.endswith("values")} == {"audio_values"}


def test_media_that_all_rows_share_are_one(processor):
    rows = processor.rows(None, 3, share=True, media={"pc": CLOUD, "audio": SOUND})
    assert len({id(row) for row in rows}) == 1


@pytest.mark.parametrize(
    ("images", "media", "message"),
    [
        (None, {"touch": [CLOUD]}, "this model reads image, video, audio, pc, and has no touch"),
        ([PICTURE], {"pc": [CLOUD, CLOUD]}, "image has 1 entries for 2 rows"),
        (None, {}, "no medium is given"),
        (None, {"video": [[]]}, "a video has no frames"),
    ],
)
def test_media_that_cannot_be_are_refused(processor, images, media, message):
    with pytest.raises(ValueError, match=message):
        processor.rows(images, None, media=media)


def test_other_systems_refuse_media_by_name(tmp_path):
    other = ib.Processor.from_pretrained(toys.write_model(tmp_path / "model"))
    with pytest.raises(ValueError, match="this system reads pictures alone, as images; it has no audio"):
        other(PICTURE, "what is it ?", media={"audio": [SOUND]})


def test_rows_of_what_a_model_does_not_read_are_refused(processor):
    with pytest.raises(ValueError, match="a video has 3 frames, and this model reads 2"):
        processor.encode("what is it ?", pictures=("frame",) * 3)
    own = processor.config
    processor.config = dataclasses.replace(own, modalities=("audio",), vision=None, points=None)
    for kinds in (("image",), ("points",)):
        with pytest.raises(ValueError, match="and this model reads audio"):
            processor.encode("what is it ?", pictures=kinds)
