"""The public Model: arrays on a mesh, loaded from a Hugging Face directory, and called on batches."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructblip_jax import families, hub
from instructblip_jax import mesh as meshes
from instructblip_jax.convert import save
from instructblip_jax.convert.load import load
from instructblip_jax.convert.shards import open_shards
from instructblip_jax.convert.write import MAX_SHARD_BYTES
from instructblip_jax.decoding import draws, search
from instructblip_jax.decoding.draws import Seed
from instructblip_jax.decoding.options import Options
from instructblip_jax.families import Family
from instructblip_jax.objectives.term import Term, mean
from instructblip_jax.pixels import SCALE
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems import bank
from instructblip_jax.systems.build import Arrays, abstract, begin_memory, merge
from instructblip_jax.systems.protocol import Context, Int8, Media

BatchArrays = Mapping[str, np.ndarray | jax.Array]
LAYER_BY_LAYER = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
"""XLA options for programs with narrow weights on CPU, where XLA slices and multiplies bfloat16 in float32: with this
pass it widens whole stacks of layers before their scan, which takes three times the memory of the weights."""
LESS_OPTIMIZED = {"xla_backend_optimization_level": "1"}
"""XLA options for train steps on CPU, where machine code for the many small fusions is most of the compile time: this
takes two thirds of the default level's time, and the step is as fast."""

_take_rows = jax.jit(lambda media, place: jax.tree.map(lambda x: x[place], media))
_arrange, _join = jax.jit(bank.arranged, static_argnums=2), jax.jit(bank.joined)


class Model:
    """A system's parameters on a mesh: ``train`` and ``frozen``, path -> array, and ``memory``, the untrained state.

    ``graph`` is the static structure that `systems.build.merge` combines with them inside a jitted function.
    """

    def __init__(
        self,
        config: Any,
        graph: nnx.GraphDef,
        train: Arrays,
        frozen: Arrays,
        mesh: Mesh,
        directory: Path,
        family: Family,
    ):
        self.config, self.graph, self.train, self.frozen, self.mesh = config, graph, train, frozen, mesh
        self.directory, self.family = directory, family
        self.memory: Arrays = begin_memory(config, train)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        mesh: Mesh | None = None,
        dtype: str = "bfloat16",
        *,
        trainable: str | None = None,
        layout: Layout = SHARDED,
        remat: str = "none",
        int8: Int8 = False,
        scan_layers: bool | None = None,
        **options: Any,
    ) -> "Model":
        """Read the system named in a directory's config.json, tensor by tensor into its place on the mesh.

        Args:
          model: a directory in the Hugging Face layout (single or sharded safetensors), or a hub id.
          mesh: from `make_mesh`; None means one device.
          dtype: compute type, and the stored type of frozen parameters; trained ones are always float32.
          trainable: the parameters to train, a name of the system's trainable sets; None is the default set.
          layout: the sharding of the parts, by names of `sharding.LAYOUTS`.
          remat: rematerialisation of the language model, and of a trained tower: "none" (everything),
            "dots", "products", "inner", or "layer" (least memory), each of them also with a length (`stack.run`).
          int8: store the frozen language model's matrices as int8 with a scale per output channel: half of bfloat16.
            "w8a8" also rounds the activations that they multiply, each row by itself, and multiplies in int8.
          scan_layers: True keeps the layers of each stack in one array and scans over them: a layer is compiled once.
            False gives frozen layers separate arrays, which a GPU reads in place: one token takes a third of the
            memory traffic. None is False on GPUs and True elsewhere. Trainable parameters are always stacked.
          options: system-specific; for InstructBLIP and BLIP-2: ``image_size``, pixels per side, a multiple of the
            patch size (0 is the checkpoint's own; another one interpolates the position embeddings);
            ``instruct_qformer``, False to withhold the instruction from the Q-Former (the paper's ablation); ``lora``,
            sizes of adapters, for trainable sets that have them ({"rank": 128, "alpha": 256, "targets": ()}).

        Raises FileNotFoundError or ValueError naming the file and the field; one ValueError lists every missing,
        unexpected and mis-shaped tensor.
        """
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16 (float16 overflows in FlanT5)")
        directory = hub.resolve(model)
        family = families.family_of(directory)
        config = family.read_config(directory / "config.json").configured(**options)
        mesh = meshes.single_device_mesh() if mesh is None else mesh
        if scan_layers is None:
            scan_layers = mesh.devices.flat[0].platform != "gpu"
        graph, train, frozen = abstract(
            config,
            mesh=mesh,
            dtype=dtype,
            trainable=trainable,
            layout=layout,
            remat=remat,
            int8=int8,
            scan_layers=scan_layers,
        )
        arrays = load(family.rules(config), train | frozen, open_shards(directory), family.without_rule(config))
        trained = {path: arrays.pop(path) for path in train}
        return cls(config, graph, trained, arrays, mesh, directory, family)

    def __repr__(self) -> str:
        arrays = (*self.train.values(), *self.frozen.values())
        trained, count = (sum(x.size for x in some) for some in (self.train.values(), arrays))
        first = self.mesh.devices.flat[0]
        held = sum(part.data.nbytes for x in arrays for part in x.addressable_shards if part.device == first)
        types = " and ".join(sorted({str(x.dtype) for x in self.frozen.values() or arrays if x.ndim > 1}))
        return (
            f"{type(self.config).__name__.removesuffix('Config')}({self.directory}: {count:,} parameters, {trained:,} "
            f"trained; {types}, {held / 1e9:.3g} GB a device; {meshes.described(self.mesh)})"
        )

    def __getattr__(self, name: str) -> Any:
        if name in ("generate", "generate_ids", "stream", "rank"):
            raise AttributeError(f"a model has no method {name}: use instructblip_jax.{name}(model, ...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def save_pretrained(self, out: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        """Write a Hugging Face directory: the source's files and tensors, the trained ones replaced, adapters merged.

        In a job of several processes all of them call it, and each one that sees ``out`` writes its share of the files.
        """
        trained = save.lazy(self.family.rules_for(self.directory, self.config), self.train)
        whole = families.merged(self.directory, self.config, trained)
        families.export(out, self.directory, self.config, whole, max_shard_bytes=max_shard_bytes)

    def __call__(self, batch: BatchArrays) -> jax.Array:
        """A batch -> logits float32 [B, T, V]: see the system's ``logits``. With several hosts, each has them all."""
        return self._run(self._logits, batch)

    def encode(
        self,
        batch: BatchArrays,
        *,
        place: np.ndarray | None = None,
        own: np.ndarray | None = None,
        rows: int | None = None,
    ) -> Media:
        """The encoded media of a batch, for any number of prompts.

        Args:
          place: int [B], the index of the encoded row for each of B prompts; None means its own row.
          own: this host's rows of the batch, out of ``rows`` (`mesh.local_rows`); None means all.
        """
        given = {key: x for key, x in batch.items() if key in self._media}
        if own is None or rows is None:
            media = self._run(self._encode, given)
        else:
            with jax.set_mesh(self.mesh):
                media = self._encode(self.train, self.frozen, meshes.put_rows(self.mesh, given, own, rows))
        return media if place is None else self.take(media, place)

    def take(self, media: Media, place: np.ndarray) -> Media:
        """Rows of encoded media by index, int [B], with repetitions."""
        with jax.set_mesh(self.mesh):
            return _take_rows(media, jnp.asarray(place))

    def join(self, parts: Sequence[Media]) -> Media:
        """The encoded media of several batches, concatenated by rows."""
        with jax.set_mesh(self.mesh):
            return _join(tuple(parts))

    def arrange(self, banks: Sequence[Media], place: np.ndarray) -> Media:
        """Images encoded in rows of one each -> rows of several; ``place`` int [B, N] has their indices in ``banks``,
        one bank after the other, and -1 if a row has fewer than N."""
        with jax.set_mesh(self.mesh):
            return _arrange(tuple(banks), jnp.asarray(place), meshes.batch_sharding(self.mesh, len(place)))

    def encode_image(self, pixels: np.ndarray) -> jax.Array:
        """The older name of `encode`, for systems that read only images."""
        warnings.warn("encode_image is now encode(batch)", FutureWarning, stacklevel=2)
        (tokens,) = self.encode({self.config.media_keys[0]: pixels}).values()
        return tokens

    def read(self, image: jax.Array, batch: BatchArrays) -> Context:
        """The older name of `prefill`, for the result of `encode_image`."""
        warnings.warn("read(image, batch) is now prefill(media, batch)", FutureWarning, stacklevel=2)
        return self.prefill({"image": image}, batch)

    def prefill(self, media: Media, batch: BatchArrays) -> Context:
        """Encoded media and a batch's prompts -> the context that all continuations of each row share, computed once.

        Raises ValueError for a system that does not generate text.
        """
        apart = {*self._media, *self.config.label_keys}
        try:
            return self._run(self._prefill, {key: x for key, x in batch.items() if key not in apart}, media)
        except AttributeError as error:
            if self.has("prefill"):
                raise
            raise ValueError(f"{self.directory}: this system generates no text; it compares or classifies") from error

    def search(self, context: Context, options: Options, seed: Seed = 0) -> np.ndarray:
        """Answers to prefilled prompts: int32 [B, num_return_sequences, T], where T is the capacity of the options."""
        return next(self.search_steps(context, options, seed, options.max_new_tokens))

    def search_steps(self, context: Context, options: Options, seed: Seed, every: int) -> Iterator[np.ndarray]:
        """`search` in steps of ``every`` tokens: yields the answers so far; the last ones are complete.

        Raises ValueError if logits are NaN or infinite.
        """
        with jax.set_mesh(self.mesh):
            state = self._begin(self.train, self.frozen, context, options, draws.key_of(seed))
        done, until = False, 0
        while not done:
            until = min(until + every, options.max_new_tokens)
            with jax.set_mesh(self.mesh):
                state, out, finished = self._search(self.train, self.frozen, context, state, options, until)
            self._check_numbers(bool(state["finite"]))
            done = bool(finished)
            # Beams that are still running are not answers yet.
            if done or options.num_beams == 1:
                yield meshes.fetch(out)

    def log_likelihood(self, context: Context, ids: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Continuations int [B, N, T] of a context -> the summed log-probability of their counted tokens [B, N].

        Raises ValueError if logits are NaN or infinite.
        """
        sums = meshes.fetch(self._run(self._log_likelihood, {"ids": ids, "counted": counted}, context))
        self._check_numbers(bool(np.isfinite(sums).all()))
        return sums

    def has(self, method: str) -> bool:
        """True if the system has this method: "embed_media" if it compares, "classify" if it classifies."""
        return method in self._methods

    def embed_media(self, media: Media) -> np.ndarray:
        """Encoded media -> unit vectors float32 [B, E] or [B, Q, E], on every host; see `protocol.Compares`."""
        return self._compare("embed_media", {}, media)

    def embed_texts(self, batch: BatchArrays) -> np.ndarray:
        """The texts of a batch -> unit vectors float32 [N, E], on every host; see `protocol.Compares`."""
        return self._compare("embed_texts", batch)

    def match(self, media: Media, batch: BatchArrays) -> np.ndarray:
        """Encoded media and the texts of a batch, row by row -> logits float32 [B, 2] of no match and match, on every
        host; see `protocol.Compares`."""
        return self._compare("match", batch, media)

    def classify(self, media: Media, batch: BatchArrays) -> np.ndarray:
        """Encoded media and the texts of a batch, row by row -> logits float32 [B, C] of the configuration's classes,
        on every host; see `protocol.Classifies`."""
        return self._compare("classify", batch, media)

    def look(self, batch: BatchArrays) -> dict[str, np.ndarray]:
        """The attention to a picture's patches by those that read it, on every host; see `protocol.Watches`."""
        with jax.set_mesh(self.mesh):
            found = self._comparing(self.train, self.frozen, "look", meshes.put_batch(self.mesh, batch))
        return {name: meshes.fetch(maps) for name, maps in found.items()}

    def _compare(self, method: str, batch: BatchArrays, *media: Media) -> np.ndarray:
        texts = {key: x for key, x in batch.items() if key not in {*self._media, *self.config.label_keys}}
        with jax.set_mesh(self.mesh):
            put = meshes.put_batch(self.mesh, texts) if texts else {}
            found = meshes.fetch(self._comparing(self.train, self.frozen, method, put, *media))
        self._check_numbers(bool(np.isfinite(found).all()))
        return found

    def _check_numbers(self, finite: bool) -> None:
        if not finite:
            raise ValueError(
                f"{self.directory}: the model's logits are not numbers: its weights or its configuration hold NaN or "
                "infinity, or it overflows in this compute type and needs float32"
            )

    def _run(self, function: Callable, batch: BatchArrays, *args: Any) -> Any:
        with jax.set_mesh(self.mesh):
            return function(self.train, self.frozen, meshes.put_batch(self.mesh, batch), *args)

    @property
    def compiler_options(self) -> dict[str, str] | None:
        """XLA options for programs over these arrays; see `LAYER_BY_LAYER`."""
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        narrow = any(x.dtype.itemsize < 4 for x in self.frozen.values())
        return LAYER_BY_LAYER if on_cpu and narrow else None

    @property
    def step_options(self) -> dict[str, str] | None:
        """`compiler_options` of a train step; see `LESS_OPTIMIZED`. A level in XLA_FLAGS is kept."""
        options = self.compiler_options or {}
        if self.mesh.devices.flat[0].platform == "cpu" and "optimization_level" not in os.environ.get("XLA_FLAGS", ""):
            options = options | LESS_OPTIMIZED
        return options or None

    def _jit(self, run: Callable, **options: Any) -> Callable:
        return jax.jit(run, compiler_options=self.compiler_options, **options)

    # Compiled once per batch shape, and kept with the model.

    @cached_property
    def _logits(self) -> Callable:
        whole = NamedSharding(self.mesh, PartitionSpec()) if jax.process_count() > 1 else None
        return self._jit(
            lambda train, frozen, batch: merge(self.graph, train, frozen).logits(batch), out_shardings=whole
        )

    @cached_property
    def _media(self) -> frozenset[str]:
        media = self.config.media_keys
        return frozenset((*media, *(key + SCALE for key in media), *self.config.feature_keys.values()))

    @cached_property
    def _encode(self) -> Callable:
        return self._jit(lambda train, frozen, batch: merge(self.graph, train, frozen).encode(batch))

    @cached_property
    def _prefill(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, batch: dict, media: Media) -> Context:
            return merge(self.graph, train, frozen).prefill(media, batch)

        return self._jit(run)

    @cached_property
    def _methods(self) -> frozenset[str]:
        found: list[str] = []

        def look(*arrays: Any) -> None:
            found.extend(dir(merge(self.graph, *arrays)))

        with jax.set_mesh(self.mesh):
            jax.eval_shape(look, self.train, self.frozen)  # the module exists only while a function is traced
        return frozenset(found)

    @cached_property
    def _comparing(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, method: str, batch: dict, *media: Media) -> jax.Array:
            return getattr(merge(self.graph, train, frozen), method)(*media, *([batch] if batch else []))

        return self._jit(run, static_argnums=2)

    @cached_property
    def _begin(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, context: Context, options: Options, key: jax.Array) -> dict:
            return search.kind(options).begin(merge(self.graph, train, frozen), context, options, key)

        return self._jit(run)

    @cached_property
    def _search(self) -> Callable:
        def run(
            train: Arrays, frozen: Arrays, context: Context, state: dict, options: Options, until: jax.Array
        ) -> tuple[dict, jax.Array, jax.Array]:
            state = search.run(merge(self.graph, train, frozen), context, state, options, until)
            return state, search.kind(options).answers(state, options), search.finished(state, options)

        return self._jit(run, donate_argnums=3)

    @cached_property
    def _log_likelihood(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, batch: dict, context: Context) -> jax.Array:
            return search.log_likelihood(merge(self.graph, train, frozen), context, batch["ids"], batch["counted"])

        return self._jit(run)

    @cached_property
    def _gradients(self) -> Callable:
        def loss(train: Arrays, frozen: Arrays, batch: dict) -> jax.Array:
            return mean(merge(self.graph, train, frozen).loss(batch, memory=self.memory, step=0)[0])

        return self._jit(jax.value_and_grad(loss))

    @cached_property
    def _loss(self) -> Callable:
        def run(train: Arrays, frozen: Arrays, batch: dict) -> dict[str, Term]:
            return merge(self.graph, train, frozen).loss(batch, memory=self.memory, step=0)[0]

        return self._jit(run)


InstructBlip = Model
"""The name for InstructBLIP's users; `from_pretrained` gives the system named in config.json."""


from_pretrained = Model.from_pretrained
"""The system named in config.json."""
