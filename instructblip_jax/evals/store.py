"""Saved predictions: an interrupted evaluation continues, and a finished one is not repeated."""

from instructblip_jax import distributed
from instructblip_jax.run.workdir import Workdir


class PredictionStore:
    """The predictions of one set as JSON lines in W/predictions: first in parts, at the end in one file.

    All processes of a job must call its methods together; process 0 writes.

    Args:
      name: the set, "NAME" or "NAME:SPLIT".
      key: a digest of everything that determines the predictions; those with another key are dropped.
      again: drop all of them.
    """

    def __init__(self, workdir: Workdir, name: str, key: str, *, again: bool = False):
        self.workdir, self.name, self.key = workdir, _file_name(name), key
        state = workdir.read_json(f"predictions/{self.name}.state.json")
        if state is None or state["key"] != key or again:
            state = {"parts": 0, "whole": False}
        self.parts, self.whole = state["parts"], state["whole"]
        written = [f"{self.name}.jsonl"] if self.whole else [self._part(n) for n in range(self.parts)]
        self.lines = [line for file in written for line in self._read(file)]
        distributed.barrier("predictions")  # all processes have read before the first one writes

    @property
    def count(self) -> int:
        """The number of predictions."""
        return len(self.lines)

    def add(self, lines: list[str]) -> None:
        """Write a part."""
        if distributed.is_writer() and lines:
            self.workdir.write_text(f"predictions/{self._part(self.parts)}", "\n".join(lines) + "\n")
            self._write_state(self.parts + 1, whole=False)
        self.parts += bool(lines)
        self.lines += lines

    def finish(self, lines: list[str]) -> list[str]:
        """Write everything to one file, with ``lines`` at its end, and delete the parts. Returns all lines."""
        self.lines += lines
        if distributed.is_writer() and not self.whole:
            self.workdir.write_text(f"predictions/{self.name}.jsonl", "\n".join(self.lines) + "\n")
            self._write_state(0, whole=True)
            for path in (self.workdir.path / "predictions").glob(f"{self.name}.part-*.jsonl"):
                path.unlink()
        return self.lines

    def _part(self, number: int) -> str:
        return f"{self.name}.part-{number:05d}.jsonl"

    def _write_state(self, parts: int, whole: bool) -> None:
        state = {"key": self.key, "parts": parts, "whole": whole}
        self.workdir.write_json(f"predictions/{self.name}.state.json", state)

    def _read(self, file: str) -> list[str]:
        return (self.workdir.path / "predictions" / file).read_text().splitlines()


def finished(workdir: Workdir, name: str) -> list[str]:
    """All predictions of a fully evaluated set. Raises FileNotFoundError if there are none."""
    return (workdir.path / "predictions" / f"{_file_name(name)}.jsonl").read_text().splitlines()


def _file_name(name: str) -> str:
    return name.replace("/", "_").replace(":", "_")
