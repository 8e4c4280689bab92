"""Several steps of training against PyTorch's AdamW on the reference model, towers frozen. Skipped without torch."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the live reference is transformers on PyTorch, which is not installed")
import checkpoints
import reference
import training

from instructblip_jax.convert import save
from instructblip_jax.convert.layouts import hf_instructblip
from instructblip_jax.mesh import put_batch
from instructblip_jax.train.optimizer import OptimConfig, schedule

STEPS = 6
OPTIM = OptimConfig(
    learning_rate=2e-3,
    warmup_steps=2,
    warmup_start=1e-4,
    weight_decay=0.05,
    beta1=0.8,  # other than either library's own
    beta2=0.95,
    epsilon=1e-6,
    clip_norm=1.0,
)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_losses_and_weights_follow_the_references(family, tmp_path):
    raw = training.config_json(dropout=0.0, family=family)
    directory = checkpoints.write(tmp_path, raw, seed=51)
    batches = [checkpoints.batch(raw, rows=4, seed=n) for n in range(2)]

    model = training.load(directory)
    state, step = training.start(model, OPTIM, steps=STEPS)
    losses, norms = [], []
    for n in range(STEPS):
        state, metrics = step(state, model.frozen, put_batch(model.mesh, batches[n % 2]))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))

    theirs = reference.load(directory)
    trained = reference.freeze(theirs)
    optimizer = reference.adamw(trained, OPTIM)
    rate, want, want_norms = schedule(OPTIM, STEPS), [], []
    for n in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = float(rate(n))
        loss, norm = reference.train_step(theirs, optimizer, reference.inputs(theirs, batches[n % 2]), OPTIM.clip_norm)
        want.append(loss)
        want_norms.append(norm)

    assert max(want_norms) > OPTIM.clip_norm  # clipping has happened
    assert want[4] < want[0]  # of the same batch
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    np.testing.assert_allclose(norms, want_norms, rtol=1e-4)
    ours = dict(save.tensors(hf_instructblip.rules(model.config), state["train"]))
    assert ours.keys() == trained.keys()
    for name, parameter in trained.items():
        if name.endswith("key.bias"):  # its gradient is zero in truth, and Adam makes steps of its rounding
            continue
        moved = np.abs(parameter.detach().numpy() - checkpoints.values(name, parameter.shape, 51)).max()
        assert np.abs(ours[name] - parameter.detach().numpy()).max() < 1e-6 + 5e-3 * moved, name
