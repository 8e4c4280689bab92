"""Laws that every system obeys, tried on small configurations. A new system adds a line to `minis.MINIS`.

The first law, agreement with the reference, stands in tests/test_goldens.py and tests/models/test_live_parity.py.
"""

from functools import cached_property, partial

import checkpoints
import jax
import jax.numpy as jnp
import minis
import numpy as np
import pytest
from etils import epath
from PIL import Image
from safetensors.numpy import load_file, save_file

import instructblip_jax as ib
from instructblip_jax.mesh import make_mesh, put_batch, replicate
from instructblip_jax.pixels import all_numbers
from instructblip_jax.run.checkpoint import Checkpoints
from instructblip_jax.systems.build import follow, in_stacks, merge
from instructblip_jax.systems.trainable import trains
from instructblip_jax.train.gradients import term_gradients
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

ROWS = 8
FAST = OptimConfig(learning_rate=1e-2, warmup_steps=0)
PROMPT, RESPONSE = 24, 16
TEMPLATE = {"llava": 32}
"""Tokens that a system's own template adds to a prompt."""


def medium(kind, rng):
    if kind == "points":
        return rng.standard_normal((40, 3))
    return Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8))


class Case:
    """A system's mini: its directory, model and processor, and a batch that the processor made."""

    def __init__(self, directory):
        self.directory, self.options = directory, minis.OPTIONS.get(directory.name, {})
        self.compares = directory.name in minis.PAIRS
        self.model = self.load()
        self.processor = ib.Processor.from_pretrained(directory)
        self.prompt = PROMPT + TEMPLATE.get(directory.name, 0)
        self.kinds = minis.KINDS.get(directory.name, ("image",))
        rng = np.random.default_rng(0)
        texts = ["which digit is red ?", "how many digits are there ?", "what is above the 3 ?", "is there a 7 ?"] * 2
        self.texts, self.answers = texts, ["3", "two", "a blue 5", "no"] * 2
        media = [[(kind, medium(kind, rng)) for kind in self.kinds] for _ in texts]
        self.media = self.processor.stack([self.processor.media(row) for row in media])
        self.shown = self.processor.shown(self.kinds)

    def load(self, mesh=None, **options):
        return ib.from_pretrained(self.directory, mesh, "float32", **self.options, **options)

    def run(self, method, *args):
        """The result of ``method(system, *args)``, on the model's arrays."""
        model = self.model
        whole = jax.jit(lambda train, frozen, args: method(merge(model.graph, train, frozen), *args))
        with jax.set_mesh(model.mesh):
            return whole(model.train, model.frozen, args)

    def batch(self, *, training: bool = True) -> dict[str, np.ndarray]:
        if not training:
            return self.prompts(self.texts)
        pairs = zip(self.texts, self.answers, strict=True)
        rows = [self.processor.encode(*pair, training=True, pictures=self.shown) for pair in pairs]
        return {**self.media, **self.processor.batch(rows, self.prompt, RESPONSE)}

    def prompts(self, texts: list[str]) -> dict[str, np.ndarray]:
        rows = [self.processor.encode(text, pictures=self.shown) for text in texts]
        return {**self.media, **self.processor.batch(rows, self.prompt, training=False)}

    @cached_property
    def whole(self):
        """Loss and gradients of the batch on one device, in one piece."""
        return self.gradients(self.model, self.batch())

    def gradients(self, model, batch, parts=1):
        run = partial(term_gradients, partial(merge, model.graph), count=parts, key=None, memory=model.memory)
        with jax.set_mesh(model.mesh):
            loss, _, grads, _ = jax.jit(run)(model.train, model.frozen, put_batch(model.mesh, batch))
        return float(loss), checkpoints.host(grads)


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.long) if kind in minis.LONG else kind for kind in minis.MINIS],
)
def case(request, tmp_path_factory):
    return Case(minis.write(tmp_path_factory.mktemp("laws") / request.param, request.param))


def close(one, other):
    """Gradients that agree, measured by the largest of each."""
    assert one.keys() == other.keys()
    for path, x in one.items():
        np.testing.assert_allclose(x, other[path], rtol=1e-4, atol=1e-5 * max(1.0, np.abs(other[path]).max()))


def test_a_directory_goes_in_and_out_bit_for_bit(case, tmp_path):
    case.model.save_pretrained(tmp_path / "out")
    there, here = (load_file(d / "model.safetensors") for d in (case.directory, tmp_path / "out"))
    assert checkpoints.leaves_equal(there, here)
    save_file(there | {"stray.weight": np.zeros(3, np.float32)}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ValueError, match="unexpected  stray"):
        ib.from_pretrained(tmp_path / "out", dtype="float32")


def test_only_the_named_set_trains(case):
    config = case.model.config
    for name, prefixes in config.trainable_sets.items():
        model = case.load(trainable=name)
        assert model.train.keys() == {path for path in model.train | model.frozen if trains(path, prefixes)}
    _, grads = case.whole  # of the first set
    assert grads.keys() == case.model.train.keys()
    moving = [path for path, x in grads.items() if np.abs(x).max() > 0]
    assert {path.split("/")[0] for path in moving} == {path.split("/")[0] for path in grads}


def test_layers_with_arrays_of_their_own_are_the_stack(case):
    if not case.model.frozen:
        pytest.skip("all of it trains, in stacks")
    apart = case.load(scan_layers=False)
    assert apart.train.keys() == case.model.train.keys()
    assert apart.frozen.keys() != case.model.frozen.keys()
    assert checkpoints.leaves_equal(dict(in_stacks(apart.frozen)), case.model.frozen)
    (loss, grads), (want, wanted) = case.gradients(apart, case.batch()), case.whole
    assert loss == pytest.approx(want, rel=1e-5)
    close(grads, wanted)


def test_eight_devices_are_one(case):
    eight = case.load(make_mesh(data=2, fsdp=2, tensor=2))
    (loss, grads), (want, wanted) = case.gradients(eight, case.batch()), case.whole
    assert loss == pytest.approx(want, rel=1e-5)
    close(grads, wanted)


def test_accumulation_is_the_whole(case):
    if case.model.config.in_batch:
        pytest.skip("rows that depend on one another: the command refuses accumulation")
    (loss, grads), (want, wanted) = case.gradients(case.model, case.batch(), 2), case.whole
    assert loss == pytest.approx(want, rel=1e-5)
    close(grads, wanted)


@pytest.mark.parametrize("training", [True, False])
def test_the_batch_is_as_the_configuration_describes_it(case, training):
    made = case.batch(training=training)
    response = RESPONSE if training else 0
    described = case.model.config.batch(ROWS, case.prompt, response, case.kinds, training=training)
    assert {key: (x.shape, x.dtype) for key, x in made.items()} == {
        key: (x.shape, x.dtype) for key, x in described.items()
    }


def test_bytes_are_the_same_media_as_numbers(case):
    rows = {key: x.copy() for key, x in case.media.items()}
    for key, x in case.processor.blank(rows).items():
        rows[key][1] = x[1]
    prompts = case.batch(training=False) | rows
    got, want = (case.model.encode(batch) for batch in (prompts, all_numbers(prompts)))
    assert {x.dtype for x in all_numbers(rows).values()} == {np.dtype(np.float32)}
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, got, want)))


def test_prefill_and_decode_are_the_forward_pass(case):
    if case.directory.name in minis.SILENT:
        pytest.skip("this system does not write")
    model, prompts = case.model, case.batch(training=False)
    tokens = [case.processor.response(text) for text in case.answers]
    if case.compares:  # all of its text is the answer, behind a first token that begins it
        prompts = case.prompts([""] * ROWS)
        tokens = [own[1:] for own in tokens]
    context = model.prefill(model.encode(prompts), prompts)
    ids = np.zeros((ROWS, 1, RESPONSE), np.int32)
    for row, own in zip(ids, tokens, strict=True):
        row[0, : len(own)] = own
    counted = np.arange(RESPONSE)[None, None] < np.array([len(own) for own in tokens])[:, None, None]
    term = model._run(model._loss, case.batch())[minis.WRITING.get(case.directory.name, "lm")]
    np.testing.assert_allclose(
        model.log_likelihood(context, ids, counted)[:, 0], -np.asarray(term.sums), rtol=2e-5, atol=2e-5
    )

    # The same step by step, through the cache.
    def stepped(train, frozen, context, ids):
        system = merge(model.graph, train, frozen)
        cache = system.init_cache(context, 1, RESPONSE)
        fed = jnp.concatenate([context["first"][:, None, None], ids[:, :, :-1]], axis=2)
        logits = []
        for n in range(4):
            out, cache = system.decode(fed[:, :, n : n + 1], context, cache, n)
            logits.append(out)
        whole, _ = system.decode(fed[:, :, :4], context)
        return jnp.concatenate(logits, axis=2), whole

    with jax.set_mesh(model.mesh):
        steps, whole = jax.jit(stepped)(model.train, model.frozen, context, jnp.asarray(ids))
    np.testing.assert_allclose(steps, whole, rtol=1e-4, atol=1e-4)


def test_pairs_are_compared_whichever_side_the_padding_is_on(case):
    if not case.compares:
        pytest.skip("this system does not compare")

    def compare(system, batch):
        media = system.encode(batch)
        return system.embed_media(media), system.embed_texts(batch), system.match(media, batch)

    right = case.prompts(case.texts)
    left = checkpoints.left_padded(right)
    images, texts, matches = case.run(compare, right)
    assert images.shape[0] == texts.shape[0] == matches.shape[0] == ROWS
    assert matches.shape[1:] == (2,)
    for x in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1, rtol=1e-5)
    for x, y in zip((images, texts, matches), case.run(compare, left), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    distinct = len({tuple(np.round(row, 3)) for row in np.asarray(texts)})
    assert distinct == len(set(case.texts))


def test_saved_and_resumed_is_undisturbed(case, tmp_path):
    tx, batch = optimizer(FAST, 4), put_batch(case.model.mesh, case.batch())
    step = make_step(partial(merge, case.model.graph), tx, seed=1, follow=partial(follow, case.model.config))

    def begin():
        train, memory = ({n: jnp.copy(x) for n, x in own.items()} for own in (case.model.train, case.model.memory))
        return replicate(case.model.mesh, init_state(train, tx, memory=memory))

    def steps(state, count):
        for _ in range(count):
            state, _ = step(state, case.model.frozen, batch)
        return state

    with jax.set_mesh(case.model.mesh):
        want = checkpoints.host(steps(begin(), 4))
        kept = Checkpoints(epath.Path(tmp_path / "checkpoints"))
        kept.save(2, steps(begin(), 2), {"iterator": {}}, "source")
        kept.close()
        again = Checkpoints(epath.Path(tmp_path / "checkpoints"))
        got = checkpoints.host(steps(again.restore(2, begin(), "source"), 2))
        again.close()
    assert checkpoints.leaves_equal(got["train"], want["train"])
    assert checkpoints.leaves_equal(got["memory"], want["memory"])
    assert all(map(np.array_equal, jax.tree.leaves(got["opt"]), jax.tree.leaves(want["opt"])))
