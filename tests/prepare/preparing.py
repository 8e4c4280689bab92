"""Pictures and rows for the tests of preparing, and a process of its own that prepares them."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from instructblip_jax.data.record import Record
from instructblip_jax.datasets.draft import Draft, Media, Rows, Skip
from instructblip_jax.datasets.prepare import shards


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed: int, height: int = 8, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_source(directory: Path, count: int, bad: int = 0, pictures: int = 50) -> Path:
    """``count`` rows about a few pictures; where ``bad``, every so many-th picture is missing."""
    directory.mkdir(parents=True)
    for number in range(min(count, pictures)):
        (directory / f"{number}.png").write_bytes(encoded(noise(number)))
    with (directory / "rows.jsonl").open("w") as file:
        for number in range(count):
            name = "gone" if bad and number % bad == 0 else number % pictures
            file.write(json.dumps({"id": f"r{number}", "image": f"{name}.png", "answer": f"answer {number}"}) + "\n")
    return directory


def draft(where: str, uid: str, media: tuple[Media, ...] = (), answer: str = "a") -> Draft:
    return Draft(where, Record(uid, "own", "train", "vqa", (), {"question": "what?"}, (answer,)), media)


def rows(directory: Path, start: int = 0) -> Iterator[Draft | Skip]:
    """A reader: rows whose answer ends in 13 are no records."""
    with (directory / "rows.jsonl").open() as file:
        for line, text in enumerate(file, 1):
            if line <= start:
                continue
            row, where = json.loads(text), f"rows.jsonl:{line}"
            if row["answer"].endswith("13"):
                yield Skip(where, "empty answer", row["id"])
                continue
            yield draft(where, f"own/train/{row['id']}", (Media(directory / row["image"]),), row["answer"])


def splits(directory: Path) -> dict[str, Rows]:
    return {"train": partial(rows, directory), "test-dev": partial(rows, directory, 20)}


def tree(directory: Path) -> dict[str, bytes]:
    """Every file of a set."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def prepare(directory: Path, out: Path, workers: int, **options) -> None:
    shards.write(out, "own", splits(directory), shards.Options(log=lambda line: None, **options), workers)


def start(*argv: object) -> subprocess.Popen:
    """This file as a program; see `main`. The allocator's settings are those of an ordinary machine."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "XLA_FLAGS")}
    command = [sys.executable, __file__, *map(str, argv)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed_at_every_step(attempt: Callable[[], None]) -> int:
    """Have ``attempt`` made again and again, the n-th time killed before its n-th change of a file's name, until one
    ends by itself. Returns how many were killed."""
    steps = 0
    while True:
        steps += 1
        child = os.fork()
        if not child:
            left = steps

            def counted(change):
                def call(*args, **kwargs):
                    nonlocal left
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return change(*args, **kwargs)

                return call

            os.replace, os.rename, os.unlink = map(counted, (os.replace, os.rename, os.unlink))
            attempt()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return steps - 1
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status


def main(what: str, *argv: str) -> None:
    """`prepare SOURCE OUT WORKERS`: prints this process's peak memory in kB; `killed SOURCE OUT`: prints how often it
    was killed."""
    source, out = map(Path, argv[:2])
    shards.SMALLEST = 16
    if what == "killed":
        print(killed_at_every_step(lambda: prepare(source, out, 1)))
        return
    import resource

    prepare(source, out, int(argv[2]))
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "jax": "jax" in sys.modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
