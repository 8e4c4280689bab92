"""Image features computed once for all training runs: the frozen tower over every distinct picture of a mixture.

They are taken before the tower's last norm, which may train, and kept in the compute type, as the tower gives them.
All processes of a job compute together, each decoding the pictures of its own rows, for the tower may lie in pieces on
all of them; the first one writes. The directory must be one that all of them see.
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
from instructblip_jax.data.loader import picture_of
from instructblip_jax.data.prepared import Joined, Source
from instructblip_jax.features.cache import FeatureCache, Features, FeatureWriter
from instructblip_jax.features.pictures import BLANK, Pictures, pictures_of
from instructblip_jax.model import InstructBlip
from instructblip_jax.processors.image import ImageProcessor
from instructblip_jax.processors.instructblip import Processor
from instructblip_jax.systems.build import Arrays, merge

SHARD_BYTES = 256 << 20
"""What a kill costs at most, and not more than this many pictures:"""
SHARD_ROWS = 4096
_VERSION = 1  # of what lies in a cache's files


@dataclasses.dataclass(frozen=True)
class _Missing:
    """Pictures to be computed: key S16, set (number), record and picture of it, [N] each."""

    keys: np.ndarray
    sets: np.ndarray
    records: np.ndarray
    numbers: np.ndarray


def tower_key(model: InstructBlip, image: ImageProcessor) -> str:
    """What the features depend on beside the picture, as one name: the tower's weights as they are computed with (their
    type is the compute type), its sizes, the image processor's settings. All processes must call it."""
    tower = {path: x for path, x in model.frozen.items() if _of_tower(path)}
    weights = digests.of_devices(tower)
    told = {
        "version": _VERSION,
        "weights": {path: [weights[path], str(x.dtype), x.shape] for path, x in sorted(tower.items())},
        "vision": dataclasses.asdict(model.config.vision),
        "image": dataclasses.asdict(image),
    }
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def _of_tower(path: str) -> bool:
    return path.startswith("vit/") and not path.startswith("vit/post_norm/")


def prepare(
    model: InstructBlip,
    processor: Processor,
    sources: Mapping[str, Source | Joined],
    directory: str | Path,
    *,
    batch_size: int,
    blank_image: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Features:
    """The features of all pictures that training on ``sources`` shows, those computed now that ``directory`` lacks.

    ``batch_size``: pictures at a time; a multiple of the devices that split a batch. All processes must call it.
    Raises ValueError for a picture that cannot be read (naming it), for a directory that the processes do not share or
    that another run is writing to, OSError where the disk has no room.
    """
    if "://" in str(directory):
        raise ValueError(f"config.data.features is {directory}: a directory is needed; mount the bucket, or use a disk")
    out = Path(directory).absolute()
    with tqdm(desc="pictures", unit="record", delay=2, leave=False, disable=not distributed.is_writer()) as bar:
        pictures = {name: pictures_of(source, out / "pictures", bar.update) for name, source in sources.items()}
    tower = _Tower(model, processor.image, batch_size)
    work = out / tower_key(model, processor.image)
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / ".lock")
    if distributed.is_writer():
        _acquire(lock, work)
    try:
        distributed.barrier("features begin")
        cache = FeatureCache(work, tower.shape, tower.dtype)
        missing = _missing(cache, pictures, {name: sources[name].frames for name in sources}, blank_image)
        _check_agreed(missing, out)
        if len(missing.keys):
            distributed.barrier("features agreed")  # all have looked before the first one writes
            _tell(cache, missing, work)
            rows = min(SHARD_ROWS, max(1, shard_bytes // cache.bytes))
            tower.compute(missing, list(sources.values()), FeatureWriter(work, rows) if lock.is_locked else None)
            distributed.barrier("features done")
            cache = FeatureCache(work, tower.shape, tower.dtype)
            if not cache.holds(missing.keys).all():
                raise ValueError(f"{work}: features that process 0 wrote are not seen here; all hosts must share it")
    finally:
        lock.release()
    return Features(cache, pictures, blank_image)


def _acquire(lock: FileLock, work: Path) -> None:
    """Wait for another run that computes the same; in a job, whose other processes would wait too long, refuse."""
    try:
        lock.acquire(timeout=-1 if jax.process_count() == 1 else 0)
    except Timeout:
        raise ValueError(f"{work}: another run computes these features; start again when it has them") from None


def _missing(cache: FeatureCache, pictures: Mapping[str, Pictures], frames: Mapping[str, int], blank: bool) -> _Missing:
    parts = [(BLANK, np.array([-1]), np.array([0]), np.array([0]))]
    if not blank:
        for number, (name, own) in enumerate(pictures.items()):
            keys, records, numbers = own.shown(frames[name])
            parts.append((keys, np.full(len(keys), number), records, numbers))
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


def _tell(cache: FeatureCache, missing: _Missing, work: Path) -> None:
    """The sizes, before anything is computed. Raises OSError where they do not fit."""
    if not distributed.is_writer():
        return
    need = len(missing.keys) * cache.bytes
    print(
        f"image features: {len(missing.keys):,} pictures to compute, {cache.bytes:,} bytes each, "
        f"{need / 1e9:.3g} GB in {work}; {len(cache.keys):,} are there",
        flush=True,
    )
    free = shutil.disk_usage(work).free
    if free < need:
        raise OSError(f"{work}: {need / 1e9:.3g} GB of image features do not fit, {free / 1e9:.3g} GB are free")


class _Tower:
    """The jitted tower over ``rows`` pictures at a time."""

    def __init__(self, model: InstructBlip, image: ImageProcessor, rows: int):
        self.mesh, self.image, self.rows = model.mesh, image, rows
        self.model = model
        self.own = meshes.local_rows(model.mesh, rows)

        def run(train: Arrays, frozen: Arrays, pixels: jax.Array) -> jax.Array:
            return merge(model.graph, train, frozen).image_features(pixels)

        self.run = jax.jit(run, compiler_options=model.compiler_options)
        pixels = jax.ShapeDtypeStruct((rows, image.height, image.width, 3), np.float32)
        with jax.set_mesh(self.mesh):
            made = jax.eval_shape(run, model.train, model.frozen, pixels)
        self.shape, self.dtype = made.shape[1:], np.dtype(made.dtype)

    def compute(self, missing: _Missing, sources: list[Source | Joined], writer: FeatureWriter | None) -> None:
        """All of ``missing``, in order, into ``writer``; one batch is decoded and one written while one is computed."""
        running: tuple[np.ndarray, jax.Array] | None = None
        quiet = not distributed.is_writer()
        with tqdm(total=len(missing.keys), desc="image features", unit="picture", disable=quiet) as bar:
            for keys, pixels in self._batches(missing, sources):
                with jax.set_mesh(self.mesh):
                    put = meshes.put_rows(self.mesh, {"pixels": pixels}, self.own, self.rows)
                    made = self.run(self.model.train, self.model.frozen, put["pixels"])
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

    def _batches(self, missing: _Missing, sources: list[Source | Joined]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Keys of up to ``rows`` pictures, and the pixels of this host's rows of them; zeros fill up the last batch."""

        def pixels(n: int) -> np.ndarray:
            if n >= len(missing.keys) or missing.sets[n] < 0:
                return np.zeros((self.image.height, self.image.width, 3), np.float32)
            record = sources[missing.sets[n]][int(missing.records[n])]
            return picture_of(record, missing.numbers[n], self.image)

        def begin(start: int) -> list[Future]:
            return [pool.submit(pixels, start + row) for row in self.own.tolist()] if start < len(missing.keys) else []

        with ThreadPoolExecutor() as pool:
            ahead = begin(0)
            for start in range(0, len(missing.keys), self.rows):
                now, ahead = ahead, begin(start + self.rows)
                yield missing.keys[start : start + self.rows], np.stack([future.result() for future in now])
