"""How a process of the server runs: on the fastest event loop, until it is told to stop, and no longer."""

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any

import structlog

from animora_process.signals import ending_signals
from animora_server import stderr_capture
from animora_server.errors import AnimoraError

log = structlog.get_logger(__name__)


def run(program: Coroutine[Any, Any, int]) -> None:
    """Runs a program on uvloop, which saves about a tenth of a call, where there is one, and leaves."""

    async def run_and_leave() -> None:
        try:
            status = await program
        except AnimoraError:
            raise  # told to whoever started the process
        except Exception:
            log.critical("the process ends: an error that it does not know", exc_info=True)
            status = 1
        _leave(status)

    try:
        from uvloop import new_event_loop  # noqa: PLC0415  # not on Windows
    except ImportError:
        asyncio.run(run_and_leave())
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run_and_leave())


def stop_signal() -> asyncio.Event:
    """Is set by SIGTERM, SIGINT and SIGHUP from now on."""
    stopping = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def _leave(status: int) -> None:
    """Ends the process now: a thread that hangs, in a device or a file system, must not hold it."""
    stderr_capture.release()
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit:  # of an output that fails, which was told
        status = status or 1
    os._exit(status)
