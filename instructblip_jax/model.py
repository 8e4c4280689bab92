"""The model that users hold: its arrays on a mesh, loaded from a Hugging Face directory, called on batches."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructblip_jax import distributed, hub
from instructblip_jax import mesh as meshes
from instructblip_jax.convert import hf_config, positions, save, table
from instructblip_jax.convert.export import MAX_SHARD_BYTES, export
from instructblip_jax.convert.load import load
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.decoding import search
from instructblip_jax.decoding.options import Options
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.build import Arrays, abstract, merge
from instructblip_jax.systems.instructblip import InstructBlipConfig
from instructblip_jax.systems.protocol import Context

BatchArrays = Mapping[str, np.ndarray | jax.Array]
LAYER_BY_LAYER = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
"""How programs with narrow weights are compiled for CPU, where XLA slices and multiplies bfloat16 in float32: with this
pass it widens whole stacks of layers before their scan, which takes three times the memory of the weights."""


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
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: bool = False,
        image_size: int = 0,
    ) -> "InstructBlip":
        """Read a public InstructBLIP or BLIP-2 checkpoint, tensor by tensor into its place on the mesh.

        Args:
          model: a directory in the Hugging Face layout (single or sharded safetensors), or a hub id.
          mesh: from `make_mesh`; None is one device.
          dtype: compute type, and the stored type of frozen parameters; trained ones are float32 whatever it is.
          trainable: which parameters train, a name of `systems.trainable.TRAINABLE`.
          instruct_qformer: False hides the instruction from the Q-Former (the paper's ablation).
          layout: how the parts lie on the mesh, names of `axes.LAYOUTS`.
          remat: what the backward pass keeps of the language model, and of a vision tower that trains: "none" (all),
            "dots", or "layer" (least memory).
          int8: keep the frozen language model's matrices as int8 with a scale an output channel: half of bfloat16.
          image_size: pixels along a side of the pictures, a multiple of the patches' (14 in the public checkpoints); 0
            is the checkpoint's own. For another one its position embeddings are interpolated.

        Raises FileNotFoundError or ValueError naming the file and the field; one ValueError lists every missing,
        unexpected and mis-shaped tensor.
        """
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16 (float16 overflows in FlanT5)")
        directory = hub.resolve(model)
        stored = hf_config.parse(directory / "config.json")
        config = dataclasses.replace(stored.at(image_size), instruct_qformer=instruct_qformer)
        mesh = meshes.single_device_mesh() if mesh is None else mesh
        graph, train, frozen = abstract(
            config, mesh=mesh, dtype=dtype, trainable=trainable, layout=layout, remat=remat, int8=int8
        )
        shards = positions.fitted(open_shards(directory), stored.vision, config.vision.grid)
        arrays = load(table.rules(config), train | frozen, shards)
        trained = {path: arrays.pop(path) for path in train}
        return cls(config, graph, trained, arrays, mesh, directory)

    def save_pretrained(self, out: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        """Write a Hugging Face directory: the source's files and tensors, the trained ones replaced; see `export`.

        In a job of several processes all of them call it, and the first one writes.
        """
        trained = dict(save.tensors(table.rules(self.config), self.train))
        if distributed.is_writer():
            size = self.config.vision.image_size
            export(out, self.directory, trained, max_shard_bytes=max_shard_bytes, image_size=size)
        distributed.barrier("save_pretrained")

    def __call__(self, batch: BatchArrays) -> jax.Array:
        """The contract's batch -> logits float32: T5's [B, To, V] at each label position, a decoder-only model's
        [B, T, V] at each text position, of the token after it. Over several hosts every one of them has all of it."""
        return self._run(self._logits, batch)

    def encode_image(self, pixels: np.ndarray) -> jax.Array:
        """Pixels float32 [B, H, W, 3] -> image tokens [B, P, D], to be used for any number of instructions; frames
        [B, F, H, W, 3] -> [B, F, P, D]."""
        return self._run(self._encode_image, {"pixel_values": pixels})

    def read(self, image: jax.Array, batch: BatchArrays) -> Context:
        """Image tokens and a batch's instructions -> what every answer to them shares, computed once."""
        text = {name: rows for name, rows in batch.items() if name not in ("pixel_values", "labels")}
        return self._run(self._read, text, image)

    def search(self, context: Context, options: Options, seed: int = 0) -> np.ndarray:
        """Answers to what was read: int32 [B, num_return_sequences, T], T the capacity of the options."""
        return next(self.search_steps(context, options, seed, options.max_new_tokens))

    def search_steps(self, context: Context, options: Options, seed: int, every: int) -> Iterator[np.ndarray]:
        """`search`, telling every so many tokens what there is of the answers; the last one told is the whole.

        Raises ValueError where logits are NaN or infinite.
        """
        with jax.set_mesh(self.mesh):
            state = self._begin(self.train, self.frozen, context, options, jax.random.key(seed))
        over, until = False, 0
        while not over:
            until = min(until + every, options.max_new_tokens)
            with jax.set_mesh(self.mesh):
                state, out, done = self._decode(self.train, self.frozen, context, state, options, until)
            self._check_numbers(bool(state["finite"]))
            over = bool(done)
            # Beams that are still live are no answers.
            if over or options.num_beams == 1:
                yield meshes.fetch(out)

    def log_likelihood(self, context: Context, ids: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Continuations int [B, N, T] of what was read -> the summed log-probability of their counted tokens [B, N].

        Raises ValueError where logits are NaN or infinite.
        """
        sums = meshes.fetch(self._run(self._log_likelihood, {"ids": ids, "counted": counted}, context))
        self._check_numbers(bool(np.isfinite(sums).all()))
        return sums

    def _check_numbers(self, finite: bool) -> None:
        if not finite:
            raise ValueError(
                f"{self.directory}: the model's logits are not numbers: its weights or its configuration hold NaN or "
                "infinity, or it overflows in this compute type, and float32 is needed"
            )

    def _run(self, function: Callable, batch: BatchArrays, *args: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return function(self.train, self.frozen, meshes.put_batch(self.mesh, batch), *args)

    @property
    def compiler_options(self) -> dict[str, str] | None:
        """What programs over these arrays are to be compiled with; see `LAYER_BY_LAYER`."""
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        narrow = any(x.dtype.itemsize < 4 for x in self.frozen.values())
        return LAYER_BY_LAYER if on_cpu and narrow else None

    def _jit(self, run: Callable, **options: Any) -> Callable:
        return jax.jit(run, compiler_options=self.compiler_options, **options)

    # Compiled once a batch shape, kept with the model.

    @cached_property
    def _logits(self) -> Callable:
        whole = NamedSharding(self.mesh, PartitionSpec()) if jax.process_count() > 1 else None
        return self._jit(
            lambda train, frozen, batch: merge(self.graph, train, frozen).logits(batch), out_shardings=whole
        )

    @cached_property
    def _encode_image(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, batch: dict) -> jax.Array:
            return merge(self.graph, train, frozen).encode_image(batch["pixel_values"])

        return self._jit(run)

    @cached_property
    def _read(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, batch: dict, image: jax.Array) -> Context:
            return merge(self.graph, train, frozen).read(image, batch)

        return self._jit(run)

    @cached_property
    def _begin(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, context: Context, options: Options, key: jax.Array) -> dict:
            return search.kind(options).begin(merge(self.graph, train, frozen), context, options, key)

        return self._jit(run)

    @cached_property
    def _decode(self) -> Callable:
        def run(
            train: Arrays, frozen: Arrays, context: Context, state: dict, options: Options, until: jax.Array
        ) -> tuple[dict, jax.Array, jax.Array]:
            state = search.decode(merge(self.graph, train, frozen), context, state, options, until)
            return state, search.kind(options).answers(state, options), search.finished(state, options)

        return self._jit(run, donate_argnums=3)

    @cached_property
    def _log_likelihood(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, batch: dict, context: Context) -> jax.Array:
            return merge(self.graph, train, frozen).log_likelihood(context, batch["ids"], batch["counted"])

        return self._jit(run)

    @cached_property
    def _gradients(self) -> Callable:
        def loss(train: Arrays, frozen: Arrays, batch: dict) -> tuple[jax.Array, jax.Array]:
            total, count = map(jnp.sum, merge(self.graph, train, frozen).loss(batch))
            return total / jnp.maximum(count, 1), count

        return self._jit(jax.value_and_grad(loss, has_aux=True))

    @cached_property
    def _loss(self) -> Callable:
        return self._jit(lambda train, frozen, batch: merge(self.graph, train, frozen).loss(batch))


def loss(model: InstructBlip, batch: BatchArrays) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean negative log-likelihood over labels != -100 (float32, no dropout), and ``{"tokens": their number}``."""
    total, count = map(jnp.sum, model._run(model._loss, batch))
    return total / jnp.maximum(count, 1), {"tokens": count}


def gradients(model: InstructBlip, batch: BatchArrays) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """`loss` and its gradients: Hugging Face name -> float32 array in Hugging Face layout, trained parameters only."""
    (value, _), grads = model._run(model._gradients, batch)
    rules = table.rules(model.config)
    return value, dict(save.tensors(rules, grads))
