"""The entry point of all commands, which also handles a missing extra, closed streams and failed output."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def run_command(name: str, extras: str, command_line: Callable[[], object]) -> None:
    """Runs a command line, or prints the version, which needs no extra.

    Args:
        name: The name of the command.
        extras: The extras of the distribution that the command line needs, separated by commas.
        command_line: Imports the command line and runs it.

    Raises:
        SystemExit: A module of an extra is missing (the message names the extra), or standard output fails.
        ModuleNotFoundError: A module of Animora is missing.
    """
    open_missing_streams()
    with exit_on_failed_output(name):
        _run(name, extras, command_line)


def _run(name: str, extras: str, command_line: Callable[[], object]) -> None:
    if sys.argv[1:2] == ["--version"]:
        from importlib.metadata import version  # noqa: PLC0415  # not needed otherwise

        sys.stdout.write(f"{name} {version('animora-ranking')}\n")
        return
    try:
        command_line()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("animora_"):
            raise
        needed = f"pip install 'animora-ranking[{extras}]'"
        sys.exit(f"{name}: {error.name} is not installed; this needs: {needed}")


def open_missing_streams() -> None:
    """Opens the null device for each closed standard stream; call it before opening any file.

    Otherwise the next file or socket gets the descriptor, and receives what native code writes to standard
    error. Python's stream object is None then, which libraries do not expect.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115  # gets the lowest free descriptor, the stream's
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


@contextmanager
def exit_on_failed_output(name: str) -> Iterator[None]:
    """Ends the process with status 1 and one line on standard error if its output cannot be written.

    A full disk or a closed pipe is not a bug, so there is no traceback. Later output is lost.

    Args:
        name: The name of the command, which begins the line.

    Raises:
        SystemExit: A write to sys.stdout or a flush failed, in the block or at its end.
    """
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and sys.platform != "win32":  # where terminals are not files
        sys.stdout = _checked(stream, name)
    try:
        yield
    finally:
        sys.stdout.flush()


def _checked(stream: io.TextIOWrapper, name: str) -> io.TextIOWrapper:
    """A stream to the same file, with the same buffering and encoding."""
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
        """Redirects buffered output to the null device, or Python's final flush would fail again."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
