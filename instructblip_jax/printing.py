"""Output to a reader that may go away: `instructblip train ... | head -1` trains to the end."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Output:
    """A stream that discards what is written, without an error, once its reader has closed it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._discard()

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        """Redirect to /dev/null: the stream's buffer and all later output, also of libraries and child processes."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextlib.contextmanager
def whoever_reads() -> Iterator[None]:
    """Context in which the readers of stdout and stderr may close them. Both are flushed at the end."""
    out, err = (stream and cast(TextIO, _Output(stream)) for stream in (sys.stdout, sys.stderr))  # None: already closed
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            for output in filter(None, (out, err)):
                with contextlib.suppress(OSError):  # a full disk, which Python reports when it exits
                    output.flush()
