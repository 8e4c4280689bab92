"""The goldens of BEATs and PointBERT (tests/goldens/make.py) as model directories, loaded by the house's own table."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import modality_qformer
import numpy as np
from checkpoints import values
from flax import nnx
from jax.sharding import NamedSharding
from jaxprs import equations
from safetensors.numpy import save_file

from instructblip_jax.convert import save
from instructblip_jax.convert.load import NONE, load
from instructblip_jax.convert.parts import beats, point_bert, qformer
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.mesh import single_device_mesh
from instructblip_jax.models.bridges.qformer import QFormer, QFormerConfig
from instructblip_jax.models.towers.beats import Beats
from instructblip_jax.models.towers.point_bert import PointBert
from instructblip_jax.sharding import laid_out, partition_spec
from instructblip_jax.systems.build import flatten, merge

GOLDENS = Path(__file__).parent / "goldens" / "towers"
OUTPUT, GRADIENT = 1e-5, 1e-4
"""The largest errors, relative to the largest entry."""
KINDS = {"beats": (beats, Beats, "fbank"), "pointbert": (point_bert, PointBert, "points")}


@cache
def golden(kind: str, seed: int) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDENS / f"{kind}_{seed}.npz"))


def weights(kind: str, seed: int) -> dict[str, np.ndarray]:
    """The tower's tensors by their public names."""
    return {name[2:]: x for name, x in golden(kind, seed).items() if name.startswith("w/")}


def written(directory: Path, kind: str, seed: int) -> Path:
    """A directory with the tower under its public names, and its configuration."""
    directory.mkdir()
    config = json.loads(str(golden(kind, seed)["meta"]))["config"]
    (directory / "config.json").write_text(json.dumps(config))
    save_file(weights(kind, seed), directory / "model.safetensors")
    return directory


class Tower:
    """A tower as flat arrays: ``graph``, ``arrays`` (path -> array), the ``rules`` of its names, and the golden."""

    def __init__(
        self,
        directory: Path,
        kind: str,
        seed: int,
        *,
        dtype: str = "float32",
        mesh: Any = None,
        layout: str = "sharded",
    ):
        part, module, _ = KINDS[kind]
        config = part.read_config(directory / "config.json", json.loads((directory / "config.json").read_text()))
        self.directory = directory
        self.config, self.mesh, self.layout = config, mesh or single_device_mesh(), layout
        self.graph, state = nnx.split(nnx.eval_shape(lambda: module(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))))
        self.rules = {rule.ours: rule for rule in part.rules(config, "", "")}
        unread = re.compile(point_bert.unread("")) if kind == "pointbert" else NONE
        abstract = {path: self._abstract(leaf, dtype) for path, leaf in flatten(state).items()}
        self.arrays = load(self.rules, abstract, open_shards(directory), unread)
        self.want = golden(kind, seed)

    def _abstract(self, leaf: Any, dtype: str) -> jax.ShapeDtypeStruct:
        spec = partition_spec(leaf.get_metadata()["axes"], leaf.shape, self.mesh, self.layout)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype), sharding=NamedSharding(self.mesh, spec))

    def run(self, function: Any, *args: Any) -> Any:
        """``function(tower, *args)``, jitted."""
        with jax.set_mesh(self.mesh), laid_out(self.layout):
            return jax.jit(lambda arrays, args: function(merge(self.graph, arrays), *args))(self.arrays, args)


def towers(directory: Path, kind: str) -> list[Tower]:
    """Those of both seeds."""
    return [Tower(written(directory / str(seed), kind, seed), kind, seed) for seed in (0, 1)]


class Program:
    """``function(system_of, arrays, *inputs)``, compiled once for towers of one form and called with the arrays of any
    of them; ``system_of`` makes the module of arrays."""

    def __init__(self, tower: Tower, function: Any):
        graph = tower.graph
        self._jitted = jax.jit(lambda arrays, inputs: function(lambda arrays: merge(graph, arrays), arrays, *inputs))

    def __call__(self, tower: Tower, *inputs: Any) -> Any:
        return self._jitted(tower.arrays, inputs)


@cache
def _qformer(width: int, rows: int) -> Any:
    """The golden's Q-Former over tokens [B, P, D] of this width: a function of these -> the gradients, with respect to
    them and to the queries, of the product of its outputs with the probe; and these outputs."""
    given = modality_qformer.inputs(rows)
    config = QFormerConfig(**modality_qformer.SIZES, encoder_hidden_size=width)
    graph, state = nnx.split(nnx.eval_shape(lambda: QFormer(config, dtype=jnp.float32, rngs=nnx.Rngs(0))))
    rules = {rule.ours: rule for rule in qformer.rules(config, "", "")}
    arrays = {}
    for path, leaf in flatten(state).items():
        rule = rules[path]
        shape = rule.tensor_shape(leaf.shape)
        read = [rule.transform.read(values(theirs, shape, modality_qformer.SEED)) for theirs in rule.names(leaf.shape)]
        arrays[path] = jnp.asarray(np.stack(read) if rule.stacked else read[0])

    def product(tokens: Any, queries: Any, arrays: Any) -> Any:
        found = merge(graph, arrays)(queries, tokens, given["ids"], given["mask"])
        return jnp.sum(found * given["probe"]), found

    jitted = jax.jit(jax.grad(product, (0, 1), has_aux=True))
    return lambda tokens: jitted(tokens, given["queries"], arrays)


def check_qformer(tower: Tower, output: Any) -> np.ndarray:
    """Raise AssertionError unless the golden's Q-Former behind the tower's ``output`` is ours. Returns the gradient of
    its product with the probe with respect to that output."""
    (grad_tokens, grad_queries), found = _qformer(output.shape[-1], len(output))(np.asarray(output))
    near(found, tower.want["qformer/output"], OUTPUT)
    near(grad_queries, tower.want["qformer/grad_queries"], GRADIENT)
    return np.asarray(grad_tokens)


def check_gradients(tower: Tower, grads: dict[str, Any]) -> None:
    """Raise AssertionError unless these gradients of all arrays are the golden's, of which the first seed has some."""
    named = dict(save.tensors(tower.rules, grads))
    largest = max(np.abs(x).max() for x in named.values())
    for name, x in tower.want.items():
        if name.startswith("grad/"):  # of the keys' biases it is zero but for rounding
            most = 1e-6 * largest if name.endswith("k_proj.bias") else GRADIENT * np.abs(x).max()
            assert np.abs(named[name.removeprefix("grad/")] - x).max() <= most, name


def check_names(tower: Tower, unread: str = NONE.pattern) -> None:
    """Raise AssertionError unless the arrays are the golden's tensors bit for bit, both ways."""
    names = dict(save.tensors(tower.rules, tower.arrays))
    theirs = {name[2:]: x for name, x in tower.want.items() if name.startswith("w/")}
    assert names.keys() == {name for name in theirs if not re.fullmatch(unread, name)}
    for name, x in names.items():
        np.testing.assert_array_equal(x, theirs[name])


WIDE = ("exp", "rsqrt", "logistic", "top_k", "argmax")
"""Operations of softmax, norms, gates, and of choosing centres and neighbours."""


def check_wide(tower: Tower, x: np.ndarray, *present: str) -> None:
    """Raise AssertionError unless all operations in `WIDE` of a tower's program are float32, and the ``present`` ones
    are there."""
    with jax.set_mesh(tower.mesh):
        traced = jax.make_jaxpr(lambda arrays, x: merge(tower.graph, arrays)(x))(tower.arrays, x)
    found = [equation for equation in equations(traced.jaxpr) if equation.primitive.name in WIDE]
    assert {equation.primitive.name for equation in found} >= set(present)
    assert {x.aval.dtype for equation in found for x in equation.invars} == {np.dtype(np.float32)}


def near(got: Any, want: np.ndarray, most: float) -> None:
    """Raise AssertionError if an entry is further off than ``most`` times the largest entry, or 1 if that is less."""
    np.testing.assert_allclose(got, want, atol=most * max(1.0, np.abs(want).max()), rtol=0)
