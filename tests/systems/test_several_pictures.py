"""Rows with different numbers of pictures in batches of few shapes."""

from functools import partial

import jax
import jax.numpy as jnp
import minis
import numpy as np
import pytest
from PIL import Image

import instructblip_jax as ib
from instructblip_jax.commands.train import load_model
from instructblip_jax.mesh import put_batch, replicate, single_device_mesh
from instructblip_jax.run.config import DataConfig, MixtureConfig, RunConfig
from instructblip_jax.systems.build import merge
from instructblip_jax.train.meter import COMPILED
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

IMAGES = [Image.fromarray(np.full((24, 24, 3), 40 * n, np.uint8)) for n in range(6)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return minis.write(tmp_path_factory.mktemp("several") / "llava", "llava")


@pytest.fixture(scope="module")
def processor(directory):
    return ib.Processor.from_pretrained(directory)


def kinds(count):
    return ("image",) * count


def test_rows_of_all_smaller_numbers_share_a_batch(processor):
    held = processor.holding((5, 1))
    assert [len(held.static_kinds(kinds(n))) for n in (1, 2, 5)] == [1, 5, 5]
    assert processor.static_kinds(kinds(3)) == kinds(3)
    with pytest.raises(ValueError, match=r"config\.data\.pictures goes up to 5, and a record shows 6 pictures"):
        held.static_kinds(kinds(6))


def test_shapes_do_not_depend_on_the_rows(processor):
    held = processor.holding((5,))
    for counts in ((0, 1, 2), (5, 0, 3), (1, 1, 1)):
        rows = [held.encode("<image>" * n + "is there a 7 ?", "no", training=True, pictures=n) for n in counts]
        media = held.stack([held.media([("image", x) for x in IMAGES[:n]]) for n in counts], kinds(5))
        batch = media | held.batch(rows, 96, 8, kinds(5))
        want = held.config.batch(3, 96, 8, kinds(5))
        assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {k: (x.shape, x.dtype) for k, x in want.items()}
        assert [held.pictures_in(row["input_ids"]) for row in rows] == list(counts)


def test_rows_without_pictures_may_have_batches_of_their_own(processor):
    held = processor.holding((0, 2))
    assert [len(held.static_kinds(kinds(n))) for n in (0, 1, 2)] == [0, 2, 2]
    assert processor.static_kinds(()) == processor.holding((1, 5)).static_kinds(()) == kinds(1)  # a blank one
    rows = [held.encode("is there a 7 ?", "no", training=True, pictures=0)] * 2
    without = held.stack([held.media(())] * 2, ()) | held.batch(rows, 96, 8, ())
    want = held.config.batch(2, 96, 8, ())
    assert {key: (x.shape, x.dtype) for key, x in without.items()} == {k: (x.shape, x.dtype) for k, x in want.items()}
    beside = held.stack([held.media(()), held.media([("image", IMAGES[3])])], kinds(2))
    assert beside["pixel_values"].shape[:2] == (2, 2)
    assert not beside["pixel_values"][0].any()


def test_missing_pictures_are_zeros(processor):
    stacked = processor.stack([processor.media([("image", IMAGES[3])] * n) for n in (1, 3)])
    assert not stacked["pixel_values"][0, 1:].any()
    assert stacked["pixel_values"][1, 2].any()


def test_a_mark_stands_for_each_picture(processor):
    assert processor.marked("what is it ?", 2) == "<image><image>what is it ?"
    assert processor.marked("a <image> b", 1) == "a <image> b"
    with pytest.raises(ValueError, match="holds <image> 1 times, and its row has 2 pictures"):
        processor.marked("a <image> b", 2)


def test_a_run_says_how_many_pictures_its_batches_hold(directory, tmp_path):
    data = DataConfig(pictures=(5, 1))
    run = RunConfig(str(directory), 1, 2, MixtureConfig(("s",)), data, dtype="float32")
    assert load_model(run, directory, single_device_mesh())[1].pictures == (1, 5)
    one = ib.Processor.from_pretrained(minis.write(tmp_path / "instructblip", "instructblip"))
    with pytest.raises(ValueError, match=r"config\.data\.pictures: a row of this system holds one picture"):
        one.holding((5,))


@pytest.mark.parametrize("kind", ["llava", "frozen", "kosmos-1"])
def test_texts_alone_need_no_picture(kind, tmp_path):
    """A batch of 0 pictures a row has the loss of one that holds a picture which no text shows; its gradients, too."""
    made = minis.write(tmp_path / kind, kind)
    model, processor = ib.from_pretrained(made, dtype="float32"), ib.Processor.from_pretrained(made)
    rows = [processor.encode(text, "no", training=True, pictures=0) for text in ("is there a 7 ?", "how many ?")]
    texts = processor.batch(rows, 96, 8, ())
    side = model.config.vision.image_size
    found = [
        ib.gradients(model, {"pixel_values": np.ones((2, count, side, side, 3), np.float32), **texts})
        for count in (0, 1)
    ]
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-6)
    for name, x in found[0][1].items():
        np.testing.assert_allclose(x, found[1][1][name], atol=1e-6, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "kind", ["flamingo", *(pytest.param(k, marks=pytest.mark.long) for k in ("kosmos-1", "llava"))]
)
def test_rows_of_any_number_of_pictures_run_the_same_programs(kind, tmp_path):
    """After the first step and the first answers nothing is compiled, though rows hold 0 to 5 pictures."""
    made = minis.write(tmp_path / kind, kind)
    model, held = ib.from_pretrained(made, dtype="float32"), ib.Processor.from_pretrained(made).holding((5,))
    tx = optimizer(OptimConfig(), 10)
    state = replicate(model.mesh, init_state(jax.tree.map(jnp.copy, model.train), tx))
    step = make_step(partial(merge, model.graph), tx, seed=1)
    compiled, programs = [], []

    def rows_of(counts, response):
        rows = [held.encode("<image>" * n + "is there a 7 ?", response, pictures=n) for n in counts]
        media = held.stack([held.media([("image", x) for x in IMAGES[:n]]) for n in counts], kinds(5))
        return media | held.batch(rows, 96, 8, kinds(5), training=response is not None)

    def listen(event, *_, **__):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for counts in ((0, 1, 5), (2, 3, 4), (0, 0, 1), (5, 5, 5)):
            with jax.set_mesh(model.mesh):
                state, _ = step(state, model.frozen, put_batch(model.mesh, rows_of(counts, "no")))
            ib.generate_ids(model, rows_of(counts, None), max_new_tokens=3)
            programs.append(compiled.count(COMPILED))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert programs[0] > 0
    assert programs[1:] == programs[:1] * 3
