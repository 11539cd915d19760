"""Child processes that log to a file and end with their parent."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from animora_demo.embedded.account import Account
from animora_demo.embedded.errors import EmbeddedError

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
RETRY_INTERVAL = 0.02
LOG_LINES = 12
LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class Program:
    """A program and how to run it.

    Attributes:
        command: The program and its arguments.
        directory: The working directory.
        log: The file for its output; truncated at each start.
        stop_signal: The signal that stops it.
        account: The account to run as; None for this process' own user.
        inherits: File descriptors that it and its children inherit.
    """

    command: Sequence[str | Path]
    directory: Path
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    account: Account | None = None
    inherits: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name of the program, for messages."""
        return Path(self.command[0]).name

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-LOG_LINES:])


class ChildProcess:
    """One run of a program.

    It is not bound to an event loop: it can be started in one and stopped in another.
    """

    def __init__(self, program: Program, process: "subprocess.Popen[bytes]") -> None:
        self._program = program
        self._process = process

    @classmethod
    def spawn(cls, program: Program) -> Self:
        """Starts the program, on a thread that outlives the child and is its parent to the kernel.

        Raises:
            EmbeddedError: The program cannot be executed.
        """
        return cls(program, _popen(program))

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists; also true while it is stopped (SIGSTOP)."""
        return self._process.poll() is None

    async def wait(self) -> int:
        """Waits until the process has ended. Returns the exit status."""
        return await asyncio.to_thread(self._process.wait)

    async def stop(self) -> None:
        """Sends the stop signal; kills the process after ten seconds."""
        self._process.send_signal(self._program.stop_signal)
        self._process.send_signal(signal.SIGCONT)  # a process stopped by SIGSTOP handles no other signal
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            await self.kill()

    async def kill(self) -> None:
        """Kills the process (SIGKILL)."""
        self._process.kill()
        await self.wait()


async def bring_up(program: Program, answers: Callable[[], Awaitable[bool]]) -> ChildProcess:
    """Starts a server and waits until `answers` returns true.

    Raises:
        EmbeddedError: The server ended or did not answer in time; the text has the last lines of its log.
    """
    child = ChildProcess.spawn(program)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(child.stop)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await answers():
                    if not child.running:
                        raise EmbeddedError(f"{program.name} ended while it started:\n{program.log_tail()}")
                    await asyncio.sleep(RETRY_INTERVAL)
        except TimeoutError as error:
            raise EmbeddedError(f"{program.name} did not answer in time:\n{program.log_tail()}") from error
        undo.pop_all()
    return child


async def run_to_end(program: Program) -> None:
    """Runs a program to its end.

    Raises:
        EmbeddedError: The program failed; the text has the last lines of its log.
    """
    child = ChildProcess.spawn(program)
    try:
        status = await child.wait()
    finally:
        await child.stop()
    if status != 0:
        raise EmbeddedError(f"{program.name} failed with status {status}:\n{program.log_tail()}")


def _popen(program: Program) -> "subprocess.Popen[bytes]":
    account = f"{program.account.uid}:{program.account.gid}" if program.account else "-"
    launcher_arguments = (str(os.getpid()), str(int(program.stop_signal)), account)
    try:
        with program.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", LAUNCHER, *launcher_arguments, *program.command],
                cwd=program.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                pass_fds=program.inherits,
                start_new_session=True,  # a terminal's Ctrl-C reaches the parent only
            )
    except OSError as error:
        raise EmbeddedError(f"cannot run {program.command[0]}: {error}") from error


def _environment() -> dict[str, str]:
    """This process' environment without variables that configure PostgreSQL or its clients."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
