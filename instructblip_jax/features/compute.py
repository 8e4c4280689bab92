"""Features computed once for all training runs: the frozen tower's outputs for every distinct medium of a mixture.

`System.features` computes them, up to the first part that may be trained; they are stored in its output type. All
processes of a job compute together, each decoding the media of its own rows, because the tower may be sharded over all
of them; the first one writes. All of them must see the directory.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from filelock import FileLock, Timeout
from jax.experimental import multihost_utils
from tqdm import tqdm

from instructblip_jax import digests, distributed
from instructblip_jax import mesh as meshes
from instructblip_jax.data.loader import media_of
from instructblip_jax.data.prepared import Joined, Source, media_shown
from instructblip_jax.data.record import FRAME, IMAGE, Kinds
from instructblip_jax.features.cache import FeatureCache, Features, FeatureWriter
from instructblip_jax.features.pictures import BLANK, Pictures, pictures_of
from instructblip_jax.model import Model
from instructblip_jax.pixels import SCALE
from instructblip_jax.processors.base import BaseProcessor
from instructblip_jax.systems.build import Arrays, in_stacks, merge

SHARD_BYTES = 256 << 20
SHARD_ROWS = 4096
"""Maximum bytes and media per shard, which bounds the work lost by a kill."""
_VERSION = 1  # of the cache's files


@dataclasses.dataclass(frozen=True)
class _Missing:
    """Media to be computed: key S16, set (number; -1 for the blank medium), record and medium of it, [N] each."""

    keys: np.ndarray
    sets: np.ndarray
    records: np.ndarray
    numbers: np.ndarray


def tower_key(model: Model, processor: BaseProcessor) -> str:
    """A digest of everything that features depend on apart from the medium: the tower's weights in the compute type,
    its sizes and the processor's settings. All processes must call it."""
    tower = {path: x for path, x in model.frozen.items() if model.config.feature_weights(path)}
    weights = {path: [digests.of_devices(x)[""], str(x.dtype), x.shape] for path, x in in_stacks(tower)}
    content = {
        "version": _VERSION,
        "weights": dict(sorted(weights.items())),
        **model.config.feature_settings(),
        **processor.settings(),
    }
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def prepare(
    model: Model,
    processor: BaseProcessor,
    sources: Mapping[str, Source | Joined],
    directory: str | Path,
    *,
    batch_size: int,
    blank_image: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Features:
    """The features of all media in training on ``sources``; computes those that ``directory`` lacks.

    ``batch_size``: media per batch, a multiple of the devices that split a batch. All processes must call it.
    Raises ValueError for a medium that cannot be read (naming it), a system whose features cannot be cached, a
    directory that the processes do not share or that another run is writing to; OSError if the disk has not enough
    space.
    """
    if processor.augments:
        raise ValueError("config.data.features: this system augments its training media at each visit; set it to ''")
    if "://" in str(directory):
        raise ValueError(f"config.data.features is {directory}: a directory is needed; mount the bucket, or use a disk")
    out = Path(directory).absolute()
    with tqdm(desc="pictures", unit="record", delay=2, leave=False, disable=not distributed.is_writer()) as bar:
        pictures = {name: pictures_of(source, out / "pictures", bar.update) for name, source in sources.items()}
    towers = [_Tower(model, processor, batch_size, *own) for own in _kinds(model, processor, sources).items()]
    whole, name = {}, tower_key(model, processor)
    for tower in towers:
        work = out / name / tower.key if len(model.config.feature_keys) > 1 else out / name
        whole[tower.key] = _whole(tower, work, sources, pictures, blank_image, shard_bytes)
    return Features(whole, pictures, processor, blank_image)


def _kinds(model: Model, processor: BaseProcessor, sources: Mapping[str, Source | Joined]) -> dict[str, Kinds]:
    """Media key -> the kinds whose features it has, if they occur in records; all kinds if there is only one key."""
    keys = list(model.config.feature_keys)
    if len(keys) == 1 == len(model.config.media_keys):
        return {keys[0]: ()}
    if len(keys) != len(model.config.media_keys):
        raise ValueError(
            "config.data.features: the features of this system cannot be cached, because it does not read all of its "
            "media through frozen towers; leave the field empty"
        )
    shown = [kind for source in sources.values() for kinds in media_shown(source).kinds for kind in kinds]
    kinds = dict.fromkeys(shown)
    return {key: own for key in keys if (own := tuple(kind for kind in kinds if processor.feature_key(kind) == key))}


def _whole(
    tower: "_Tower",
    work: Path,
    sources: Mapping[str, Source | Joined],
    pictures: Mapping[str, Pictures],
    blank_image: bool,
    shard_bytes: int,
) -> FeatureCache:
    """A tower's cache in ``work`` with the features of all of its media; computes missing ones."""
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / ".lock")
    if distributed.is_writer():
        _acquire(lock, work)
    try:
        distributed.barrier("features begin")
        cache = FeatureCache(work, tower.shape, tower.dtype)
        missing = _missing(cache, tower, sources, pictures, blank_image)
        _check_agreed(missing, work)
        if len(missing.keys):
            distributed.barrier("features agreed")  # all have checked before the first one writes
            _check_room(cache, missing, work, tower.what)
            rows = min(SHARD_ROWS, max(1, shard_bytes // cache.bytes))
            tower.compute(missing, list(sources.values()), FeatureWriter(work, rows) if lock.is_locked else None)
            distributed.barrier("features done")
            cache = FeatureCache(work, tower.shape, tower.dtype)
            if not cache.holds(missing.keys).all():
                raise ValueError(f"{work}: features that process 0 wrote are not seen here; all hosts must share it")
    finally:
        lock.release()
    return cache


def _acquire(lock: FileLock, work: Path) -> None:
    """Wait for another run that computes the same features; in a job, refuse, because its other processes would
    wait."""
    try:
        lock.acquire(timeout=-1 if jax.process_count() == 1 else 0)
    except Timeout:
        raise ValueError(f"{work}: another run computes these features; start again when it has them") from None


def _missing(
    cache: FeatureCache,
    tower: "_Tower",
    sources: Mapping[str, Source | Joined],
    pictures: Mapping[str, Pictures],
    blank: bool,
) -> _Missing:
    parts = [(BLANK, np.array([-1]), np.array([0]), np.array([0]))]
    if not blank:
        for number, (name, own) in enumerate(pictures.items()):
            found = (np.asarray(own.keys), np.full(len(own.keys), number), *own.places)
            here = tower.reads(sources[name], own)
            parts.append(found if here is None else tuple(column[here] for column in found))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    _, first = np.unique(columns[0], return_index=True)
    first = np.sort(first)  # in the order of the sets: neighbours on disk are read together
    lacking = first[~cache.holds(columns[0][first])]
    return _Missing(*(column[lacking] for column in columns))


def _check_agreed(missing: _Missing, out: Path) -> None:
    if jax.process_count() > 1:
        digest = hashlib.blake2b(missing.keys.tobytes(), digest_size=4).digest()
        found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32))
        if len(np.unique(found)) > 1:
            raise ValueError(f"{out}: the processes see different sets or features; they must share this directory")


def _check_room(cache: FeatureCache, missing: _Missing, work: Path, what: str) -> None:
    """Print the sizes before anything is computed. Raises OSError if they do not fit."""
    if not distributed.is_writer():
        return
    need = len(missing.keys) * cache.bytes
    print(
        f"{what}: {len(missing.keys):,} pictures to compute, {cache.bytes:,} bytes each, "
        f"{need / 1e9:.3g} GB in {work}; {len(cache.keys):,} are there",
        flush=True,
    )
    free = shutil.disk_usage(work).free
    if free < need:
        raise OSError(f"{work}: {need / 1e9:.3g} GB of {what} do not fit, {free / 1e9:.3g} GB are free")


class _Tower:
    """The jitted `System.features` for ``rows`` media at a time; ``key`` is its input and output media key.

    ``kinds``: those of its media, () for all. A single frame is treated as an image.
    """

    def __init__(self, model: Model, processor: BaseProcessor, rows: int, key: str, kinds: Kinds):
        self.key, self.kinds = key, kinds
        self.what = model.config.feature_keys[key].replace("_", " ")
        self.shows: Kinds = tuple(kind for kind in kinds if kind != FRAME)[:1] or ((IMAGE,) if kinds else ())
        self.model, self.mesh, self.processor, self.rows = model, model.mesh, processor, rows
        self.own = meshes.local_rows(model.mesh, rows)

        def run(train: Arrays, frozen: Arrays, batch: dict[str, jax.Array]) -> jax.Array:
            return merge(model.graph, train, frozen).features(batch)[self.key]

        self.run = jax.jit(run, compiler_options=model.compiler_options)
        shapes = model.config.batch(rows, 1, kinds=self.shows) if self.shows else model.config.batch(rows, 1)
        media = {name: x for name, x in shapes.items() if name.removesuffix(SCALE) == key}
        with jax.set_mesh(self.mesh):
            made = jax.eval_shape(run, model.train, model.frozen, media)
        self.shape, self.dtype = made.shape[1:], np.dtype(made.dtype)

    def reads(self, source: Source | Joined, pictures: Pictures) -> np.ndarray | None:
        """True for the media of a set that belong to this tower, bool [N]; None for all."""
        if not self.kinds:
            return None
        shown = media_shown(source)
        counts = np.diff(pictures.starts)
        kinds = [kind for n, count in enumerate(counts) for kind in shown.of(n)[:count]]
        return np.array([kind in self.kinds for kind in kinds], bool)

    def compute(self, missing: _Missing, sources: list[Source | Joined], writer: FeatureWriter | None) -> None:
        """Compute all of ``missing``, in order, into ``writer``; one batch is decoded and one written while one is
        computed."""
        running: tuple[np.ndarray, jax.Array] | None = None
        quiet = not distributed.is_writer()
        with tqdm(total=len(missing.keys), desc=self.what, unit="picture", disable=quiet) as bar:
            for keys, media in self._batches(missing, sources):
                with jax.set_mesh(self.mesh):
                    put = meshes.put_rows(self.mesh, media, self.own, self.rows)
                    made = self.run(self.model.train, self.model.frozen, put)
                    if running:
                        self._write(*running, writer, bar)
                running = keys, made
            with jax.set_mesh(self.mesh):
                if running:
                    self._write(*running, writer, bar)
        if writer:
            writer.close()

    def _write(self, keys: np.ndarray, made: jax.Array, writer: FeatureWriter | None, bar: tqdm) -> None:
        features = meshes.fetch(made)[: len(keys)]
        if writer:
            writer.add(keys, features)
        bar.update(len(keys))

    def _batches(
        self, missing: _Missing, sources: list[Source | Joined]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Keys of up to ``rows`` media, and the arrays of this host's rows; the last batch is padded with blank
        ones."""

        def arrays(n: int) -> dict[str, np.ndarray]:
            if n >= len(missing.keys) or missing.sets[n] < 0:
                return self.processor.media(())
            record = sources[missing.sets[n]][int(missing.records[n])]
            medium = record.media[missing.numbers[n]]
            # A single frame is treated as an image.
            alone = medium._replace(kind=IMAGE) if medium.kind == FRAME else medium
            return media_of(dataclasses.replace(record, media=(alone,)), self.processor)

        def begin(start: int) -> list[Future]:
            return [pool.submit(arrays, start + row) for row in self.own.tolist()] if start < len(missing.keys) else []

        with ThreadPoolExecutor() as pool:
            ahead = begin(0)
            for start in range(0, len(missing.keys), self.rows):
                now, ahead = ahead, begin(start + self.rows)
                found = [future.result() for future in now]
                yield missing.keys[start : start + self.rows], self.processor.stack(found, self.shows)
