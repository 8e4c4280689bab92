"""ALBEF's forms against a plain statement in PyTorch: losses, every gradient, queues, answers step by step."""

import checkpoints
import jax
import jax.numpy as jnp
import midway
import numpy as np
import pytest
from safetensors.numpy import load_file

import instructblip_jax as ib
from instructblip_jax.convert import save
from instructblip_jax.convert.layouts.albef import TASKS
from instructblip_jax.mesh import put_batch
from instructblip_jax.objectives.term import mean
from instructblip_jax.systems import momentum
from instructblip_jax.systems.albef_pairs import draw
from instructblip_jax.systems.build import merge

torch = pytest.importorskip("torch", reason="the reference is PyTorch's")
from albef_reference import Reference, distilled, pair_terms  # noqa: E402

ROWS, LENGTH, STEP, RAMP = 4, 7, 3, 4
ALPHA = 0.4 * STEP / RAMP
LAYERS = {"reasoning": 3}
"""Layers of BERT, of which one reads the text alone: two pairs for two pictures, otherwise one layer."""
OPTIONS = {"reasoning": {"alpha": 0.0}}
"""Without a teacher, and so without momentum copies."""
SIZES = {"heads": 4, "vision_heads": 4, "fusion": 1}


class Form:
    """A form's small model, its memory in the middle of a run, a batch, and the reference with the same weights."""

    def __init__(self, directory, task):
        self.task = task
        checkpoints.write(
            directory, checkpoints.albef_json(TASKS[task], checkpoints.MINI, num_hidden_layers=LAYERS.get(task, 2))
        )
        options = {"queue_size": 6} if task in ("pretraining", "retrieval") else OPTIONS.get(task, {})
        self.model = ib.from_pretrained(directory, dtype="float32", ramp_steps=RAMP, **options)
        assert bool(self.model.memory) == (task != "reasoning")
        self.rules = self.model.family.rules(self.model.config)
        rng = np.random.default_rng(5)
        self.memory = midway.memory(self.model, rng)
        stored = load_file(directory / "model.safetensors")
        self.own = Reference({n: torch.tensor(x).double().requires_grad_() for n, x in stored.items()}, SIZES)
        copies = midway.copies(self.memory, self.rules)
        self.copy = Reference({n: torch.tensor(x).double() for n, x in copies.items()}, SIZES)
        self.batch = self._batch(rng)

    def _batch(self, rng):
        side = self.model.config.vision.image_size
        shown = (2,) if self.task == "reasoning" else ()
        lengths = np.array([7, 3, 5, 6])
        mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
        ids = rng.integers(5, 30, mask.shape).astype(np.int32) * mask
        ids[:, 0] = 2
        batch = {
            "pixel_values": rng.standard_normal((ROWS, *shown, side, side, 3), np.float32),
            "input_ids": ids,
            "attention_mask": mask,
        }
        if self.task == "question_answering":
            batch["labels"] = np.where(mask, rng.integers(5, 30, mask.shape), -100)[:, :5].astype(np.int32)
        if self.task in ("reasoning", "entailment"):
            batch["labels"] = np.array([[1], [0], [-100], [1]], np.int32)
        if self.task == "retrieval":
            batch["picture"] = np.array([0, 1, 0, 9], np.int32)
        return batch

    def given(self, batch):
        """The batch as the reference takes it."""
        d = {n: torch.tensor(x.astype(np.int64)) for n, x in batch.items() if x.dtype == np.int32}
        pixels = torch.tensor(batch["pixel_values"]).double().movedim(-1, -3)
        return d | {"ids": d["input_ids"], "mask": d["attention_mask"], "pixels": pixels}

    def differentiated(self, loss):
        """Value, what ``loss(system)`` returns beside it, and gradients by the original's names; no gradients for two
        forms whose graphs are parts of pre-training's."""

        def run(train, frozen):
            return loss(merge(self.model.graph, train, frozen))

        whole = self.task not in ("retrieval", "entailment")
        step = jax.value_and_grad(run, has_aux=True) if whole else lambda *arrays: (run(*arrays), {})
        with jax.set_mesh(self.model.mesh):
            run_once = jax.jit(step, compiler_options=self.model.step_options)
            (value, more), grads = run_once(self.model.train, self.model.frozen)
        return float(value), more, dict(save.tensors(self.rules, grads))

    def check(self, value, grads, want):
        """Against the reference's loss, and its gradients."""
        assert value == pytest.approx(want.item(), rel=1e-5)
        if not grads:
            return
        want.backward()
        wanted = {n: x.grad.numpy() for n, x in self.own.w.items() if x.grad is not None}
        assert grads.keys() >= wanted.keys()
        largest = max(np.abs(x).max() for x in wanted.values())
        for name, x in grads.items():
            # A key's bias moves all scores of a row alike: its gradient is 0 but for rounding.
            np.testing.assert_allclose(x, wanted.get(name, 0.0), rtol=1e-4, atol=2e-6 * largest, err_msg=name)


@pytest.fixture(scope="module")
def form(tmp_path_factory):
    return lambda task: Form(tmp_path_factory.mktemp(task), task)


@pytest.mark.parametrize("task", ["pretraining", "retrieval"])
def test_pairs(form, task):
    made = form(task)
    batch, d = put_batch(made.model.mesh, made.batch), made.given(made.batch)
    draws = draw(jax.random.key(1), ROWS, LENGTH, 30)
    d |= {f"{n}_" if n == "mask" else n: torch.tensor(np.asarray(x)) for n, x in draws._asdict().items()}
    queues = {n: x for n, x in made.memory.items() if n.endswith("_queue")}
    terms, features = pair_terms(
        made.own, made.copy, {n: torch.tensor(np.asarray(x)) for n, x in queues.items()}, d, ALPHA
    )
    assert (d["mask_"] < 0.15).any() or task == "retrieval"

    def loss(system):
        found, after = system.terms(batch, batch["input_ids"], batch["attention_mask"], made.memory, ALPHA, draws)
        return mean(found), (found, after)

    value, (found, after), grads = made.differentiated(loss)
    assert {n: float(x.sums.sum() / x.counts.sum()) for n, x in found.items()} == pytest.approx(
        {n: x.item() for n, x in terms.items()}, rel=1e-5
    )
    made.check(value, grads, sum(terms.values()))
    for name, own in zip(momentum.QUEUES, features, strict=True):
        want = np.asarray(queues[name]).copy()
        places = [0, 1, 2, 3] if task == "pretraining" else [4, 5, 0, 1]
        want[places] = own
        np.testing.assert_allclose(after[name], want, atol=1e-5)
    if task == "retrieval":
        assert after["picture_queue"].tolist() == [0, 9, 7, 0, 0, 1]


@pytest.mark.parametrize("task", ["question_answering", "reasoning", "entailment"])
def test_tasks(form, task):
    made = form(task)
    shown = checkpoints.left_padded(made.batch)
    batch, d = put_batch(made.model.mesh, shown), made.given(made.batch)
    which = "answer_logits" if task == "question_answering" else "class_logits"
    logits = getattr(made.own, which)(d)
    taught = getattr(made.copy, which)(d) if made.memory else logits
    (name,) = ("lm",) if task == "question_answering" else ("class",)
    if name == "class":
        logits, taught = logits[:, None], taught[:, None]
    want = distilled(logits, d["labels"], taught, ALPHA if made.memory else 0.0)
    counted = (d["labels"] >= 0).any(1)

    def loss(system):
        terms, _ = system.loss(batch, memory=made.memory, step=STEP)
        return mean(terms), terms

    value, terms, grads = made.differentiated(loss)
    np.testing.assert_allclose(terms[name].sums, want.detach(), rtol=1e-5, atol=1e-6)
    made.check(value, grads, want.sum() / counted.sum())
    if name == "lm":
        answers_are_written_step_by_step(made, shown, logits.detach().numpy())


def answers_are_written_step_by_step(made, shown, logits):
    """The cache, and a whole continuation, give the logits of the forward pass; ranking its likelihoods."""
    model, labels = made.model, made.batch["labels"]
    np.testing.assert_allclose(model(shown), logits, rtol=1e-4, atol=1e-4)
    context = model.prefill(model.encode(shown), {n: x for n, x in shown.items() if n != "labels"})
    ids = np.where(labels < 0, 0, labels)[:, None]
    own = torch.tensor(logits).log_softmax(-1).gather(-1, torch.tensor(ids[:, 0].astype(np.int64))[..., None])[..., 0]
    want = (own.numpy() * (labels >= 0)).sum(1)
    np.testing.assert_allclose(model.log_likelihood(context, ids, labels[:, None] >= 0)[:, 0], want, rtol=1e-4)

    def stepped(train, frozen, context):
        system = merge(model.graph, train, frozen)
        cache, fed, found = system.init_cache(context, 1, 3), context["first"][:, None, None], []
        for n in range(3):
            out, cache = system.decode(fed, context, cache, n)
            found.append(out[:, 0, 0])
            fed = jnp.asarray(ids)[:, :, n : n + 1]
        return jnp.stack(found, 1)

    with jax.set_mesh(model.mesh):
        np.testing.assert_allclose(
            jax.jit(stepped)(model.train, model.frozen, context), logits[:, :3], rtol=1e-4, atol=1e-4
        )
