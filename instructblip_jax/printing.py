"""Printing to a reader that may go away: `instructblip train ... | head -1` trains to the end."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Output:
    """A stream that prints to nowhere, without an error, from when nobody reads it any more."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._leave()

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        """Discard the stream's buffer, and all later output of libraries and of child processes."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def whoever_reads() -> Iterator[None]:
    """Within it stdout and stderr may be closed by who reads them; what is printed is flushed at its end."""
    out, err = (stream and cast(TextIO, _Output(stream)) for stream in (sys.stdout, sys.stderr))  # None: closed before
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            for output in filter(None, (out, err)):
                with contextlib.suppress(OSError):  # a full disk, which Python tells when it ends
                    output.flush()
