"""BLIP's forms against a plain statement in PyTorch: losses, pre-training's every gradient, queues."""

import checkpoints
import jax
import jax.numpy as jnp
import midway
import numpy as np
import pytest
from safetensors.numpy import load_file

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.convert.layouts.hf_blip import TASKS
from instructblip_jax.mesh import put_batch
from instructblip_jax.objectives.term import mean
from instructblip_jax.systems import momentum
from instructblip_jax.systems.build import merge

torch = pytest.importorskip("torch", reason="the reference is PyTorch's")
from blip_reference import Blip, original, pair_terms, smoothed  # noqa: E402

ROWS, LENGTH, WORDS, ALPHA = 4, 7, 32, 0.3
SIZES = {"heads": 4, "vision_heads": 4, "dec": WORDS, "merge": 1}


class Form:
    """A form's small model, its memory in the middle of a run, a batch, and the reference with the same weights."""

    def __init__(self, directory, task):
        self.task, pairs = task, task in ("pretraining", "retrieval")
        merged = {"merge_layer": 1} if task == "reasoning" else {}
        raw = checkpoints.blip_json(TASKS[task], checkpoints.MINI, num_hidden_layers=2, **merged)
        checkpoints.write(directory, raw)
        options = {"queue_size": 6} if pairs else {"label_smoothing": 0.1} if task == "captioning" else {}
        self.model = ib.from_pretrained(directory, dtype="float32", **options)
        self.rules = self.model.family.rules(self.model.config)
        rng = np.random.default_rng(5)
        self.memory = midway.memory(self.model, rng)
        stored = load_file(directory / "model.safetensors")
        self.own = Blip({original(n): torch.tensor(x).double().requires_grad_() for n, x in stored.items()}, SIZES)
        copies = midway.copies(self.memory, self.rules)
        self.copy = Blip({original(n): torch.tensor(x).double() for n, x in copies.items()}, SIZES)
        self.batch = self._batch(rng)

    def _batch(self, rng):
        side = self.model.config.vision.image_size
        shown = (2,) if self.task == "reasoning" else ()
        lengths = np.array([7, 3, 5, 6])
        mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
        ids = rng.integers(5, WORDS, mask.shape).astype(np.int32) * mask
        ids[:, 0] = {"captioning": WORDS, "question_answering": WORDS + 1, "reasoning": WORDS + 1}.get(self.task, 2)
        pixels = rng.standard_normal((ROWS, *shown, side, side, 3), np.float32)
        batch = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
        if self.task == "captioning":  # the prompt is two tokens
            batch["labels"] = np.where(mask * (np.arange(LENGTH) > 1), ids, -100).astype(np.int32)
        if self.task == "question_answering":
            batch["labels"] = np.where(mask, rng.integers(5, WORDS, mask.shape), -100)[:, :5].astype(np.int32)
        if self.task == "reasoning":
            batch["labels"] = np.array([[1], [0], [-100], [1]], np.int32)
        if self.task == "retrieval":
            batch["picture"] = np.array([0, 1, 0, 9], np.int32)
        return batch

    def given(self):
        """The batch as the reference takes it."""
        d = {n: torch.tensor(x.astype(np.int64)) for n, x in self.batch.items() if x.dtype == np.int32}
        pixels = torch.tensor(self.batch["pixel_values"]).double().movedim(-1, -3)
        return d | {"ids": d["input_ids"], "mask": d["attention_mask"], "pixels": pixels}

    def check(self, loss, want):
        """``loss(system)`` -> (value, more) against the reference's, and every gradient of pre-training, of which the
        other forms' graphs are parts; returns what is more."""
        gradients = self.task == "pretraining"

        def run(train, frozen):
            return loss(merge(self.model.graph, train, frozen))

        step = jax.value_and_grad(run, has_aux=True) if gradients else lambda *arrays: (run(*arrays), {})
        with jax.set_mesh(self.model.mesh):
            run_once = jax.jit(step, compiler_options=self.model.step_options)
            (value, more), grads = run_once(self.model.train, self.model.frozen)
        assert float(value) == pytest.approx(want.item(), rel=1e-5)
        if gradients:
            want.backward()
            wanted = {n: x.grad.numpy() for n, x in self.own.w.items() if x.grad is not None}
            mine = {original(name): x for name, x in save.tensors(self.rules, grads)}
            assert mine.keys() >= wanted.keys()
            largest = max(np.abs(x).max() for x in wanted.values())
            for name, x in mine.items():
                # A key's bias moves all scores of a row alike: its gradient is 0 but for rounding.
                np.testing.assert_allclose(x, wanted.get(name, 0.0), rtol=1e-4, atol=2e-6 * largest, err_msg=name)
        return more


@pytest.fixture(scope="module")
def form(tmp_path_factory):
    return lambda task: Form(tmp_path_factory.mktemp(task), task)


@pytest.mark.parametrize("task", ["pretraining", "retrieval"])
def test_pairs(form, task):
    made = form(task)
    batch, d = put_batch(made.model.mesh, made.batch), made.given()
    uniforms = np.random.default_rng(1).random((2, ROWS), np.float32)
    d |= {n: torch.tensor(x) for n, x in zip(("for_texts", "for_images"), uniforms, strict=True)}
    queues = {n: torch.tensor(np.asarray(x)) for n, x in made.memory.items() if n.endswith("_queue")}
    terms, features = pair_terms(made.own, made.copy, queues, d, ALPHA)

    def loss(system):
        found, after = system.terms(batch, made.memory, ALPHA, *map(jnp.asarray, uniforms))
        return mean(found), (found, after)

    found, after = made.check(loss, sum(terms.values()))
    assert {n: float(x.sums.sum() / x.counts.sum()) for n, x in found.items()} == pytest.approx(
        {n: x.item() for n, x in terms.items()}, rel=1e-5
    )
    for name, own in zip(momentum.QUEUES, features, strict=True):
        want = queues[name].numpy().copy()
        want[[0, 1, 2, 3] if task == "pretraining" else [4, 5, 0, 1]] = own
        np.testing.assert_allclose(after[name], want, atol=1e-6)
    if task == "retrieval":
        assert after["picture_queue"].tolist() == [0, 9, 7, 0, 0, 1]


@pytest.mark.parametrize("task", ["captioning", "question_answering", "reasoning"])
def test_tasks(form, task):
    made = form(task)
    shown, d = checkpoints.left_padded(made.batch), made.given()
    batch = put_batch(made.model.mesh, shown)
    if task == "captioning":
        logits = made.own.written(d["ids"], made.own.image(d["pixels"]))
        each = smoothed(logits[:, :-1], d["labels"][:, 1:])
        want, real = each.sum() / (d["labels"] >= 0).sum(), made.batch["attention_mask"] == 1
        there = made.model(made.batch)[real]
        np.testing.assert_allclose(there, logits.detach()[real], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(made.model(shown)[shown["attention_mask"] == 1], there, rtol=1e-5, atol=1e-5)
    elif task == "question_answering":
        each = smoothed(made.own.answers(d), d["labels"])
        want = each.sum() / ROWS
    else:
        logits = made.own.classes(d)
        each = -logits.log_softmax(-1).gather(-1, d["labels"].clamp(min=0)) * (d["labels"] >= 0)
        want = each.sum() / 3
        media = made.model.encode(shown)
        texts = {name: shown[name] for name in ("input_ids", "attention_mask")}
        found = made.model.classify(media, texts)
        np.testing.assert_allclose(found, logits.detach(), rtol=1e-4, atol=1e-5)

    def loss(system):
        terms, _ = system.loss(batch, memory={}, step=0)
        return mean(terms), terms

    (term,) = made.check(loss, want).values()
    np.testing.assert_allclose(term.sums, each.sum(-1).detach(), rtol=1e-5, atol=1e-6)
