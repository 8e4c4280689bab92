"""A profiler trace of some steps: what the devices and the host did, for TensorBoard's profile tab or Perfetto."""

import tempfile
from pathlib import Path

import jax
from etils import epath


class Trace:
    """Traces ``steps`` (those of them that are still to come) into ``directory``."""

    def __init__(self, steps: range, directory: epath.Path):
        self.steps, self.directory = steps, directory
        self.local: tempfile.TemporaryDirectory | None = None

    def before(self, step: int) -> None:
        """Start with the first of the steps that comes. JAX writes to a local disk only, so the trace begins there."""
        if self.local is None and step in self.steps:
            self.local = tempfile.TemporaryDirectory()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call of every thread would slow the steps and fill the trace
            jax.profiler.start_trace(self.local.name, profiler_options=options)

    def ends(self, step: int) -> bool:
        """Whether ``step`` is the last one; the caller waits for it, and then says `end`."""
        return self.local is not None and step == self.steps[-1]

    def end(self) -> None:
        """Stop, and write the trace to its place. Does nothing where none runs."""
        if self.local is None:
            return
        jax.profiler.stop_trace()
        written = Path(self.local.name)
        for path in written.rglob("*"):
            if path.is_file():
                target = self.directory / path.relative_to(written).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        self.local.cleanup()
        self.local = None
