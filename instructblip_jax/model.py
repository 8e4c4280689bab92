"""The model that users hold: its arrays on a mesh, loaded from a Hugging Face directory, called on batches."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from instructblip_jax import mesh as meshes
from instructblip_jax.convert import hf_config, save, source, table
from instructblip_jax.convert.export import MAX_SHARD_BYTES, export
from instructblip_jax.convert.load import load
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.generate.greedy import greedy
from instructblip_jax.systems.instructblip import InstructBlipConfig
from instructblip_jax.systems.tree import Arrays, abstract, merge

BatchArrays = Mapping[str, np.ndarray | jax.Array]


class InstructBlip:
    """InstructBLIP or BLIP-2: ``train`` and ``frozen`` hold the parameters, path -> array, on ``mesh``.

    ``graph`` is the static structure that `systems.tree.merge` fills with them inside a jitted function.
    """

    def __init__(
        self,
        config: InstructBlipConfig,
        graph: nnx.GraphDef,
        train: Arrays,
        frozen: Arrays,
        mesh: Mesh,
        directory: Path,
    ):
        self.config, self.graph, self.train, self.frozen, self.mesh = config, graph, train, frozen, mesh
        self.directory = directory

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        mesh: Mesh | None = None,
        dtype: str = "bfloat16",
        *,
        trainable: str = "qformer",
        instruct_qformer: bool = True,
        remat: str = "none",
    ) -> "InstructBlip":
        """Read a public InstructBLIP or BLIP-2 FlanT5 checkpoint, tensor by tensor into its place on the mesh.

        Args:
          model: a directory in the Hugging Face layout (single or sharded safetensors), or a hub id.
          mesh: from `make_mesh`; None is one device.
          dtype: compute type, and the stored type of frozen parameters; trained ones are float32 whatever it is.
          trainable: which parameters train, a name of `systems.trainable.TRAINABLE`.
          instruct_qformer: False hides the instruction from the Q-Former (the paper's ablation).
          remat: what the language model's backward pass keeps: "none" (all), "dots", or "layer" (least memory).

        Raises FileNotFoundError or ValueError naming the file and the field; one ValueError lists every missing,
        unexpected and mis-shaped tensor.
        """
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16 (float16 overflows in FlanT5)")
        directory = source.resolve(model)
        config = hf_config.parse(directory / "config.json")
        config = dataclasses.replace(config, instruct_qformer=instruct_qformer)
        mesh = meshes.single_device_mesh() if mesh is None else mesh
        graph, train, frozen = abstract(config, mesh=mesh, dtype=dtype, trainable=trainable, remat=remat)
        arrays = load(table.rules(config), train | frozen, open_shards(directory))
        trained = {path: arrays.pop(path) for path in train}
        return cls(config, graph, trained, arrays, mesh, directory)

    def save_pretrained(self, out: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        """Write a Hugging Face directory: the source's files and tensors, the trained ones replaced; see `export`."""
        trained = dict(save.tensors(table.rules(self.config), self.train))
        export(out, self.directory, trained, max_shard_bytes=max_shard_bytes)

    def __call__(self, batch: BatchArrays) -> jax.Array:
        """The contract's batch -> logits float32 [B, To, V]: T5's decoder logits at each label position."""
        return self._run(self._logits, batch)

    def encode_image(self, pixels: np.ndarray) -> jax.Array:
        """Pixels float32 [B, H, W, 3] -> image tokens [B, P, D], to be used for any number of instructions."""
        return self._run(self._encode_image, {"pixel_values": pixels})

    def greedy_ids(self, image: jax.Array, batch: BatchArrays, length: int) -> np.ndarray:
        """Image tokens [B, P, D] and a batch's instructions -> int32 [B, length], padded after the end token."""
        text = {name: rows for name, rows in batch.items() if name not in ("pixel_values", "labels")}
        return np.asarray(self._run(self._greedy, text, image, length))

    def _run(self, function: Callable, batch: BatchArrays, *args: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return function(self.train, self.frozen, meshes.put_batch(self.mesh, batch), *args)

    # Compiled once a batch shape, kept with the model.

    @cached_property
    def _logits(self) -> Callable:
        return jax.jit(lambda train, frozen, batch: merge(self.graph, train, frozen).logits(batch))

    @cached_property
    def _encode_image(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, batch: dict) -> jax.Array:
            return merge(self.graph, train, frozen).encode_image(batch["pixel_values"])

        return jax.jit(run)

    @cached_property
    def _greedy(self) -> Callable:
        text = self.config.text

        def run(train: Arrays, frozen: Arrays, batch: dict, image: jax.Array, length: int) -> jax.Array:
            system = merge(self.graph, train, frozen)
            return greedy(system, image, batch, length=length, end=text.eos_token_id, pad=text.pad_token_id)

        return jax.jit(run, static_argnums=4)

    @cached_property
    def _gradients(self) -> Callable:
        def loss(train: Arrays, frozen: Arrays, batch: dict) -> tuple[jax.Array, jax.Array]:
            total, count = merge(self.graph, train, frozen).loss(batch)
            return total / jnp.maximum(count, 1), count

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    @cached_property
    def _loss(self) -> Callable:
        return jax.jit(lambda train, frozen, batch: merge(self.graph, train, frozen).loss(batch))


def loss(model: InstructBlip, batch: BatchArrays) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean negative log-likelihood over labels != -100 (float32, no dropout), and ``{"tokens": their number}``."""
    total, count = model._run(model._loss, batch)
    return total / jnp.maximum(count, 1), {"tokens": count}


def gradients(model: InstructBlip, batch: BatchArrays) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """`loss` and its gradients: Hugging Face name -> float32 array in Hugging Face layout, trained parameters only."""
    (value, _), grads = model._run(model._gradients, batch)
    rules = table.rules(model.config)
    return value, dict(save.tensors(rules, grads))
