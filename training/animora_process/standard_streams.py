"""Standard input, output and error: streams that are closed when a process starts, and output that fails."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def open_missing_streams() -> None:
    """Opens the null device for each standard stream that is closed; call it before anything is opened.

    Otherwise the next file or socket takes the descriptor, and receives what native code writes to standard
    error. Python's own stream is None then, which no library expects.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115  # it takes the lowest free descriptor: the stream's
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


@contextmanager
def told_of_failed_output(name: str) -> Iterator[None]:
    """Ends the process with status 1 and one line on standard error where its output cannot be written.

    A full disk or a pipe whose reader has gone is no fault of the program, so that it has no traceback.
    What comes after the first failure is lost.

    Args:
        name: The name of the command, which begins the line.

    Raises:
        SystemExit: In the block, from whatever writes to or flushes sys.stdout, or at its end.
    """
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and sys.platform != "win32":  # whose terminals are no files
        sys.stdout = _checked(stream, name)
    try:
        yield
    finally:
        sys.stdout.flush()


def _checked(stream: io.TextIOWrapper, name: str) -> io.TextIOWrapper:
    """A stream to the same file, which is buffered and encoded as the given one."""
    output = _CheckedOutput(stream.fileno(), name)
    return io.TextIOWrapper(
        io.BufferedWriter(output) if isinstance(stream.buffer, io.BufferedWriter) else output,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _CheckedOutput(io.FileIO):
    """An open file; a write that fails ends the program."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._command = name

    def write(self, content: "ReadableBuffer", /) -> int:
        """See io.RawIOBase. Raises SystemExit."""
        try:
            return super().write(content)
        except OSError as error:
            self._discard()
            with suppress(OSError):
                sys.stderr.write(f"{self._command}: cannot write to standard output: {error.strerror}\n")
                sys.stderr.flush()
            raise SystemExit(1) from error

    def _discard(self) -> None:
        """Lets the null device take what is still buffered, or Python would fail with it once more."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
