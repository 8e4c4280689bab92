"""The real train step, and reading and answering, compiled for a slice that is not there, from shapes alone."""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructblip_jax.decoding import search
from instructblip_jax.decoding.options import Options
from instructblip_jax.mesh import batch_sharding, make_mesh
from instructblip_jax.plan.chips import GIB, Topology, parse
from instructblip_jax.plan.flops import Lengths
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.build import Abstract, abstract, merge
from instructblip_jax.systems.instructblip import InstructBlipConfig
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

STAND_INS = {1: "v5p:1x1x1", 2: "v5p:1x1x2", 4: "v5p:2x2x1", 8: "v5p:2x2x2", 16: "v5p:2x2x4", 32: "v5p:2x4x4"}
"""Number of GPUs -> the TPU slice that a program for them is compiled for: XLA needs a GPU to compile for one, and CPU
programs widen bfloat16. What a chip keeps and sends is decided before, and alike."""
INSTALL = "pip install 'jax[tpu]', which takes the version that this jax can read"
KEEP = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask the machine which TPU it has
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any will do: the topology is given, but that none is named would be told
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs: another process may hold a TPU, or compile
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class DoesNotFit(Exception):
    """The compiler found no way to hold the program. ``needed``: bytes a chip, as it says, of all or (not ``whole``) of
    the temporaries alone."""

    def __init__(self, needed: float, whole: bool):
        super().__init__(f"the compiler needs {needed / GIB:.2f} GiB a chip{'' if whole else ' for temporaries alone'}")
        self.needed, self.whole = needed, whole


@dataclasses.dataclass(frozen=True)
class Setting:
    """What decides a run's program: the model, the batch (``rows`` in all, static lengths), and how it is laid out.

    ``mesh``: sizes of (data, fsdp, tensor), one of which may be -1.
    """

    model: InstructBlipConfig
    rows: int
    lengths: Lengths
    mesh: tuple[int, int, int] = (-1, 1, 1)
    layout: Layout = SHARDED
    remat: str = "none"
    int8: bool = False
    dtype: str = "bfloat16"
    trainable: str = "qformer"
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program for one chip: its text, what it gives as shapes, the compiler's own memory figures in bytes, and the
    seconds it took to make."""

    text: str
    result: Any
    arguments: float
    outputs: float
    aliased: float
    temporaries: float
    code: float
    seconds: float

    @property
    def peak(self) -> float:
        """Bytes that a chip holds at most."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def devices(topology: Topology) -> list[Any]:
    """The devices of a slice, to compile for. Raises ValueError without the compiler or for a slice unknown to it."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"the TPU compiler is missing; it runs on any Linux machine: {INSTALL}")
    for name, value in KEEP.items():
        os.environ.setdefault(name, value)
    if not topology.chip.tpu:
        if topology.devices not in STAND_INS:
            raise ValueError(f"topology {topology.name!r}: plan knows {', '.join(map(str, STAND_INS))} GPUs")
        topology = parse(STAND_INS[topology.devices])
    # A host has 2 x 2 chips, or what a smaller slice has: said, for the compiler's default differs by machine.
    hosts = [math.gcd(side, 2) for side in (*topology.shape, 1)[:2]] + [1]
    options: dict[str, Any] = {"chips_per_host_bounds": hosts}
    if topology.chip.torus == 3:  # v4 and v5p chips have two cores, which work as one device
        options["chip_config_name"] = "megacore"
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # jax passes on whatever the compiler's library throws
        raise ValueError(f"topology {name!r}: {str(error).splitlines()[0]}") from error


def mesh_of(setting: Setting, where: list[Any]) -> Mesh:
    """The mesh that a run of this setting makes over these devices."""
    return make_mesh(*setting.mesh, devices=where)


def batch_of(setting: Setting, mesh: Mesh) -> Abstract:
    """The contract's training batch, as `data.collate` pads it."""
    config, lengths, rows = setting.model, setting.lengths, setting.rows
    sharding = batch_sharding(mesh, rows)
    side, response = config.vision.image_size, lengths.response
    frames = (lengths.frames,) if lengths.frames > 1 else ()
    text = lengths.instruction + (response if config.decoder_only else 0)
    shapes = {
        "pixel_values": (rows, *frames, side, side, 3),
        "labels": (rows, text if config.decoder_only else response),
    }
    names = ["input_ids", "attention_mask"]
    if config.qformer.use_text:
        names += ["qformer_input_ids", "qformer_attention_mask"]
    shapes |= {name: (rows, lengths.instruction if name.startswith("qformer") else text) for name in names}
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32 if name == "pixel_values" else jnp.int32, sharding=sharding)
        for name, shape in shapes.items()
    }


def state_of(train: Abstract, tx: Any, mesh: Mesh) -> Any:
    """A train state as the train command makes it: moments lie as their parameters do, counters everywhere."""
    whole = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        sharding = next((train[name].sharding for name in names if name in train), whole)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(lambda train: init_state(train, tx), train))


@dataclasses.dataclass(frozen=True)
class Described:
    """A setting on a mesh as shapes: what its programs take."""

    setting: Setting
    mesh: Mesh
    merge: Callable
    train: Abstract
    frozen: Abstract
    state: Any
    batch: Abstract

    def bytes(self) -> dict[str, float]:
        """Bytes a chip of what the step is given, by kind."""
        return {
            "frozen": held(self.frozen),
            "trained": held(self.train),
            "optimizer": held(self.state["opt"]),
            "batch": held(self.batch),
        }

    def weights(self) -> dict[str, tuple[tuple[int, ...], bool]]:
        """path -> (shape, whether it trains)."""
        return {path: (x.shape, path in self.train) for path, x in (self.train | self.frozen).items()}


def describe(setting: Setting, mesh: Mesh) -> Described:
    """Shapes, types and places of all arrays of a setting; no memory is taken."""
    graph, train, frozen = abstract(
        setting.model,
        mesh=mesh,
        dtype=setting.dtype,
        trainable=setting.trainable,
        layout=setting.layout,
        remat=setting.remat,
        int8=setting.int8,
    )
    state = state_of(train, optimizer(setting.optim, 60_000), mesh)
    return Described(setting, mesh, functools.partial(merge, graph), train, frozen, state, batch_of(setting, mesh))


def held(tree: Any) -> float:
    """Bytes that one device holds of these abstract arrays."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def train_step(described: Described) -> Any:
    """The train command's step over these arrays, traced."""
    setting = described.setting
    tx = optimizer(setting.optim, 60_000)
    step: Any = make_step(described.merge, tx, seed=0, accumulation=setting.optim.accumulation)
    with jax.set_mesh(described.mesh):
        return step.trace(described.state, described.frozen, described.batch)


def compiled(traced: Any, mesh: Mesh) -> Compiled:
    """A traced function, compiled for the devices of its mesh. Raises DoesNotFit where they cannot hold it."""
    begun = time.time()
    with jax.set_mesh(mesh), _no_cache():
        try:
            program = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            # "Used 20.5G of 15.75G hbm", or "total memory required for HLO temporaries (945.08G) exceeds ...".
            needed = re.search(r"(Used|temporaries) \(?([\d.]+)([KMGT])", str(error))
            if "RESOURCE_EXHAUSTED" not in str(error) or needed is None:
                raise
            size = float(needed[2]) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[needed[3]]
            raise DoesNotFit(size, needed[1] == "Used") from error
    memory = program.memory_analysis()
    try:
        text = program.as_text()
    except jax.errors.JaxRuntimeError as error:  # a newer compiler writes what this jaxlib does not know
        raise ValueError(f"this jax cannot read the programs of the libtpu that is installed; {INSTALL}") from error
    return Compiled(
        text=text,
        result=jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            traced.out_info,
            program.output_shardings,
        ),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        seconds=time.time() - begun,
    )


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """jax's cache of compiled programs cannot read those for devices that are not there."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def reading(described: Described) -> Any:
    """Encoding the pictures of a batch and reading its instructions, as generation does, traced."""

    def read(train: Abstract, frozen: Abstract, batch: Abstract) -> Any:
        system = described.merge(train, frozen)
        return system.read(system.encode_image(batch["pixel_values"]), batch)

    batch = {name: x for name, x in described.batch.items() if name != "labels"}
    if described.setting.model.decoder_only:  # the prompt alone
        rows, length = described.setting.rows, described.setting.lengths.instruction
        for name in ("input_ids", "attention_mask"):
            batch[name] = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=batch[name].sharding)
    with jax.set_mesh(described.mesh):
        return jax.jit(read).trace(described.train, described.frozen, batch)


def beginning(described: Described, context: Any, options: Options) -> Any:
    """The state of a search before its first token, traced; ``context``: what the compiled reading gives."""

    def begin(train: Abstract, frozen: Abstract, context: Any, options: Options, key: jax.Array) -> Any:
        return search.kind(options).begin(described.merge(train, frozen), context, options, key)

    whole = NamedSharding(described.mesh, PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    with jax.set_mesh(described.mesh):
        return jax.jit(begin).trace(described.train, described.frozen, context, options, key)


def stepping(described: Described, context: Any, state: Any, options: Options) -> Any:
    """The loop that adds tokens to all answers, traced; it consumes the state, as the model's own does."""

    def decode(train: Abstract, frozen: Abstract, context: Any, state: Any, options: Options, until: jax.Array) -> Any:
        return search.decode(described.merge(train, frozen), context, state, options, until)

    with jax.set_mesh(described.mesh):
        traced = jax.jit(decode, donate_argnums=3)
        return traced.trace(described.train, described.frozen, context, state, options, options.max_new_tokens)
