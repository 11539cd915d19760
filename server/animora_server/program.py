"""Runs a process of the server: the event loop, the signals that end it, and its exit."""

import asyncio
import gc
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
    """Runs a program to its end, and exits. Uses uvloop where available, which saves about 10 % of a call."""

    async def run_and_exit() -> None:
        try:
            status = await program
        except AnimoraError:
            raise  # printed by command_line.main
        except Exception:
            log.critical("unexpected error; exiting", exc_info=True)
            status = 1
        _exit(status)

    try:
        from uvloop import new_event_loop  # noqa: PLC0415  # not on Windows
    except ImportError:
        asyncio.run(run_and_exit())
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run_and_exit())


def stop_signal() -> asyncio.Event:
    """Returns an event that SIGTERM, SIGINT and SIGHUP set."""
    stopping = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def exempt_from_garbage_collection() -> None:
    """Exempts the objects that exist now from garbage collection; to be called before calls are answered.

    Nearly all are those of the imported libraries, which stay. A collection that visits them stops the event
    loop for 0.2 s, several times in ten seconds under load. Others are freed by their reference counts.
    """
    gc.collect()
    gc.freeze()


def _exit(status: int) -> None:
    """Exits at once, without waiting for threads, which may hang in a device or a file system."""
    stderr_capture.release()
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit:  # standard output failed; already reported
        status = status or 1
    os._exit(status)
