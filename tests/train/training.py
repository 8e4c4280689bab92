"""What the tests of training share: a mini model, its state, and the step over it."""

from functools import partial

import checkpoints
import jax.numpy as jnp

import instructblip_jax as ib
from instructblip_jax.mesh import replicate
from instructblip_jax.sharding import SHARDED
from instructblip_jax.systems.build import merge
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

FAST = OptimConfig(learning_rate=3e-3, warmup_steps=3, warmup_start=1e-4)


def config_json(kind="instructblip", dropout=0.1, family="t5"):
    """A mini model with this dropout rate in its Q-Former."""
    raw = checkpoints.config_json(kind, sizes=checkpoints.MINI, family=family)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return raw | {"qformer_config": raw["qformer_config"] | rates}


def load(directory, mesh=None, dtype="float32", trainable="qformer", layout=SHARDED):
    return ib.InstructBlip.from_pretrained(directory, mesh=mesh, dtype=dtype, trainable=trainable, layout=layout)


def start(model, optim=FAST, *, steps=100, seed=5):
    """A state at step 0 and the step function, as the train command makes them; the state is a copy, to be donated."""
    tx = optimizer(optim, steps)
    state = replicate(model.mesh, init_state({path: jnp.copy(x) for path, x in model.train.items()}, tx))
    return state, make_step(partial(merge, model.graph), tx, seed=seed, accumulation=optim.accumulation)
