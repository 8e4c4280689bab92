"""Profiler trace of some steps on devices and host, for TensorBoard's profile tab or Perfetto."""

import tempfile
from pathlib import Path

import jax
from etils import epath


class Trace:
    """Traces the remaining steps among ``steps`` into ``directory``."""

    def __init__(self, steps: range, directory: epath.Path):
        self.steps, self.directory = steps, directory
        self.local: tempfile.TemporaryDirectory | None = None

    def before(self, step: int) -> None:
        """Start the trace at the first of the steps. JAX writes only to local disks, so the trace goes to one first."""
        if self.local is None and step in self.steps:
            self.local = tempfile.TemporaryDirectory()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # tracing Python calls would slow the steps and fill the trace
            jax.profiler.start_trace(self.local.name, profiler_options=options)

    def ends(self, step: int) -> bool:
        """True if ``step`` is the last one; the caller then waits for it to finish and calls `end`."""
        return self.local is not None and step == self.steps[-1]

    def end(self) -> None:
        """Stop the trace and copy it to ``directory``; does nothing if none is running."""
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
