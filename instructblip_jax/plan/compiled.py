"""The real train step, prefill and decoding, compiled from shapes only, for a slice that need not exist."""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.experimental import topologies
from jax.extend.core import Literal
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructblip_jax.decoding import search
from instructblip_jax.decoding.options import Options
from instructblip_jax.mesh import batch_sharding, make_mesh
from instructblip_jax.models.layers.int8 import Int8
from instructblip_jax.plan import cudnn, flops, gpus
from instructblip_jax.plan.chips import GIB, Topology
from instructblip_jax.sharding import SHARDED, Layout
from instructblip_jax.systems.build import Abstract, abstract, begin_memory, follow, merge
from instructblip_jax.systems.protocol import SystemConfig
from instructblip_jax.train.groups import joined
from instructblip_jax.train.optimizer import OptimConfig, optimizer
from instructblip_jax.train.step import init_state, make_step

INSTALL = "pip install 'jax[tpu]', which takes the version that this jax can read"
KEEP = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask the machine which TPU it has
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any will do: the topology is given, but libtpu warns if none is named
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs: another process may hold a TPU, or compile
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class DoesNotFit(Exception):
    """The program does not fit, according to the compiler. ``needed``: the bytes per chip that it reports, for
    everything if ``whole``, else only for the temporaries."""

    def __init__(self, needed: float, whole: bool):
        super().__init__(f"the compiler needs {needed / GIB:.2f} GiB a chip{'' if whole else ' for temporaries alone'}")
        self.needed, self.whole = needed, whole


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Static sizes of a row: prompt and response in tokens, and the kinds of its media in reading order."""

    prompt: int
    response: int
    kinds: tuple[str, ...] = ("image",)


@dataclasses.dataclass(frozen=True)
class Group:
    """One of several batches of a step, and the weight of its loss."""

    name: str
    rows: int
    lengths: Lengths
    weight: float


@dataclasses.dataclass(frozen=True)
class Setting:
    """Everything that determines a run's program: the system, the batch, and their layouts.

    Attributes:
      model: the sizes of the system.
      rows: of the global batch.
      mesh: sizes of (data, fsdp, tensor), one of which may be -1.
      trainable: a name of the system's trainable sets, "" for the default.
      scan_layers: see `model.Model.from_pretrained`.
      groups: the batches of a training step, if it has several; ``rows`` is then their total.
    """

    model: SystemConfig
    rows: int
    lengths: Lengths
    mesh: tuple[int, int, int] = (-1, 1, 1)
    layout: Layout = SHARDED
    remat: str = "none"
    int8: Int8 = False
    dtype: str = "bfloat16"
    trainable: str = ""
    scan_layers: bool = True
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    groups: tuple[Group, ...] = ()


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program for one chip: its text, its results as shapes, the compiler's own memory figures in bytes, and the
    compile time in seconds."""

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
        """The peak memory of a chip in bytes."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def devices(topology: Topology) -> list[Any]:
    """The devices of a slice, as a compilation target. Raises ValueError if there is no compiler, or no such slice."""
    if not topology.chip.tpu:
        return gpus.devices(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"the TPU compiler is missing; it runs on any Linux machine: {INSTALL}")
    for name, value in KEEP.items():
        os.environ.setdefault(name, value)
    # A host has 2 x 2 chips, or those of a smaller slice; set here because the compiler's default differs by machine.
    hosts = [math.gcd(side, 2) for side in (*topology.shape, 1)[:2]] + [1]
    options: dict[str, Any] = {"chips_per_host_bounds": hosts}
    if topology.chip.torus == 3:  # v4 and v5p chips have two cores, which work as one device
        options["chip_config_name"] = "megacore"
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    name = f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}"
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # jax passes on whatever the compiler's library raises
        raise ValueError(f"topology {name!r}: {str(error).splitlines()[0]}") from error


def mesh_of(setting: Setting, where: list[Any]) -> Mesh:
    """The mesh of a run with this setting on these devices."""
    return make_mesh(*setting.mesh, devices=where)


def batch_of(setting: Setting, mesh: Mesh, *, training: bool = True) -> Abstract:
    """A batch of the setting's system and lengths, its rows split over the mesh; see `SystemConfig.batch`."""

    def of(rows: int, lengths: Lengths) -> Abstract:
        shapes = setting.model.batch(rows, lengths.prompt, lengths.response, lengths.kinds, training=training)
        sharding = batch_sharding(mesh, rows)
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for name, x in shapes.items()}

    if setting.groups and training:
        return joined({group.name: of(group.rows, group.lengths) for group in setting.groups})
    return of(setting.rows, setting.lengths)


def state_of(config: SystemConfig, train: Abstract, tx: Any, mesh: Mesh) -> Any:
    """A train state as the train command makes it, as shapes.

    The optimizer's moments and the memory's copies are sharded as their parameters are; the rest (counters, queues) is
    on every device.
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        # A copy in the memory may be named by its parameter's path after a prefix: "momentum/PATH".
        names += [name.partition("/")[2] for name in names]
        same = (train[name].sharding for name in names if name in train and train[name].shape == x.shape)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=next(same, whole))

    state = jax.eval_shape(lambda train: init_state(train, tx, memory=begin_memory(config, train)), train)
    return jax.tree_util.tree_map_with_path(place, state)


@dataclasses.dataclass(frozen=True)
class Described:
    """A setting on a mesh: the arguments of its programs as shapes with shardings."""

    setting: Setting
    mesh: Mesh
    merge: Callable
    train: Abstract
    frozen: Abstract
    state: Any
    batch: Abstract

    def bytes(self) -> dict[str, float]:
        """Bytes per chip of the step's arguments, by kind; "memory" only if the system has one."""
        memory = self.state["memory"]
        return {
            "frozen": held(self.frozen),
            "trained": held(self.train),
            **({"memory": held(memory)} if memory else {}),
            "optimizer": held(self.state["opt"]),
            "batch": held(self.batch),
        }

    def weights(self) -> dict[str, tuple[tuple[int, ...], bool]]:
        """path -> (shape, True if it is trained)."""
        return {path: (x.shape, path in self.train) for path, x in (self.train | self.frozen).items()}


def describe(setting: Setting, mesh: Mesh) -> Described:
    """Shapes, types and shardings of all arrays of a setting; no memory is allocated."""
    graph, train, frozen = abstract(
        setting.model,
        mesh=mesh,
        dtype=setting.dtype,
        trainable=setting.trainable,
        layout=setting.layout,
        remat=setting.remat,
        int8=setting.int8,
        scan_layers=setting.scan_layers,
    )
    state = state_of(setting.model, train, optimizer(setting.optim, 60_000), mesh)
    return Described(setting, mesh, functools.partial(merge, graph), train, frozen, state, batch_of(setting, mesh))


def held(tree: Any) -> float:
    """Bytes of these abstract arrays on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def train_step(described: Described) -> Any:
    """The train command's step, traced over these arrays."""
    setting = described.setting
    tx = optimizer(setting.optim, 60_000)
    begun = functools.partial(follow, setting.model)
    groups = {group.name: group.weight for group in setting.groups}
    step: Any = make_step(
        described.merge, tx, seed=0, accumulation=setting.optim.accumulation, follow=begun, groups=groups
    )
    with jax.set_mesh(described.mesh), cudnn.assumed():
        return step.trace(described.state, described.frozen, described.batch)


def compiled(traced: Any, mesh: Mesh, options: Mapping[str, Any] | None = None) -> Compiled:
    """A traced function, compiled for the devices of its mesh, with XLA options. Raises DoesNotFit if it does not fit
    them."""
    begun = time.time()
    with jax.set_mesh(mesh), _no_cache():
        try:
            program = traced.lower().compile(compiler_options=dict(options or {}))
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
    except jax.errors.JaxRuntimeError as error:  # the output of a newer compiler, which this jaxlib cannot read
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
    """Turn off jax's cache of compiled programs, which cannot read those for absent devices."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def prefill(described: Described) -> Any:
    """Encoding a batch's media and prefilling its prompts, as generation does, traced."""
    setting = described.setting

    def run(train: Abstract, frozen: Abstract, batch: Abstract) -> Any:
        system = described.merge(train, frozen)
        return system.prefill(system.encode(batch), batch)

    batch = batch_of(setting, described.mesh, training=False)
    with jax.set_mesh(described.mesh), cudnn.assumed():
        return jax.jit(run).trace(described.train, described.frozen, batch)


def begin(described: Described, context: Any, options: Options) -> Any:
    """The state of a search before its first token, traced. ``context`` is the result of the compiled prefill."""

    def run(train: Abstract, frozen: Abstract, context: Any, options: Options, key: jax.Array) -> Any:
        return search.kind(options).begin(described.merge(train, frozen), context, options, key)

    whole = NamedSharding(described.mesh, PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    with jax.set_mesh(described.mesh):
        return jax.jit(run).trace(described.train, described.frozen, context, options, key)


def decode(described: Described, context: Any, state: Any, options: Options) -> Any:
    """The loop of decode steps, traced. It donates the state, as `Model.search` does."""

    def run(train: Abstract, frozen: Abstract, context: Any, state: Any, options: Options, until: jax.Array) -> Any:
        return search.run(described.merge(train, frozen), context, state, options, until)

    with jax.set_mesh(described.mesh):
        traced = jax.jit(run, donate_argnums=3)
        return traced.trace(described.train, described.frozen, context, state, options, options.max_new_tokens)


def read_whole(traced: Any, described: Described) -> Abstract:
    """The parameters that a function, traced with them as its first arguments, reads completely. Of an embedding it
    reads only some rows."""
    names = [*sorted(described.train), *sorted(described.frozen)]  # the order of a tree's leaves
    whole = [name for name, read in zip(names, _used_whole(traced.jaxpr.jaxpr), strict=False) if read]
    return {name: x for name, x in (described.train | described.frozen).items() if name in whole}


def _used_whole(jaxpr: Any) -> list[bool]:
    """For each input of a traced function, True if it is used in any way other than selecting some of its rows."""
    whole: set[Any] = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
    for equation in jaxpr.eqns:
        given, inner = equation.invars, list(flops.parts(equation))
        # A dynamic slice is one layer of a stack, and the loop around it reads all of them.
        picked = 1 if equation.primitive.name == "gather" else 0
        if not inner:
            whole |= {x for x in given[picked:] if not isinstance(x, Literal)}
        for part in inner:  # inputs only for a loop's condition come first, and do not belong to a branch
            used = _used_whole(part)
            whole |= {
                x for x, read in zip(given[-len(used) :], used, strict=False) if read and not isinstance(x, Literal)
            }
    return [x in whole for x in jaxpr.invars]
