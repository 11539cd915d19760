"""A worker's side of the socket: what it is told, and what it answers."""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from animora_server.observability.aggregation import as_json, taken
from animora_server.observability.probes import Check
from animora_server.settings import Settings
from animora_server.workers.ipc_messages import Message, from_line, to_line

log = structlog.get_logger(__name__)


class ParentChannel:
    """The process that started this one.

    It is answered on a thread of its own, so that it hears of an event loop that hangs. When it is gone, the
    socket closes and this process ends.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = Lock()
        self._registry = CollectorRegistry()
        self._dead: Check = _all_is_well
        self._unready: Check = _starting
        self._drain: Callable[[], object] = lambda: os._exit(0)
        first = from_line(self._lines.readline())
        self.name: str = first["name"]
        self.device_socket: str | None = first["device_socket"]
        self.settings = Settings.model_validate(first["settings"])

    @classmethod
    def on_standard_input(cls) -> Self:
        """The one that gave this process its standard input, which is empty from now on."""
        connection = socket.socket(fileno=os.dup(0))
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        return cls(connection)

    def answer(self) -> None:
        """Answers from now on; "starting", until there is more to tell."""
        Thread(target=self._answer, name="parent", daemon=True).start()

    def told_to_drain(self) -> asyncio.Event:
        """Is set when the parent says so, from now on; before, the process ends at once."""
        draining = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._drain = lambda: loop.call_soon_threadsafe(draining.set)
        return draining

    def report(self, registry: CollectorRegistry, dead: Check) -> None:
        """From now on the answers have these metrics, and say whether the event loop stands still."""
        self._registry, self._dead = registry, dead

    def report_state(self, unready: Check) -> None:
        """From now on the answers say whether calls are answered."""
        self._unready = unready

    def refuse(self, why: str) -> None:
        """Says that an option is wrong."""
        self._send({"refused": why})

    def say_goodbye(self) -> None:
        """Sends the last metrics, so that nothing is missing from the totals."""
        with suppress(OSError):  # then nobody adds them up any more
            self._send({"metrics": as_json(taken(self._registry))})

    def _answer(self) -> None:
        with suppress(OSError):
            for line in self._lines:
                try:
                    self._answer_one(from_line(line)["ask"])
                except OSError:
                    raise
                except Exception:  # the edge of the thread: one answer is missing, not all that follow
                    log.exception("a question of the parent could not be answered")
        log.critical("the parent is gone")
        if self.device_socket is not None:  # whose folder the parent would have removed
            shutil.rmtree(Path(self.device_socket).parent, ignore_errors=True)
        os._exit(1)

    def _answer_one(self, question: str) -> None:
        match question:
            case "state":
                self._send({"state": {"dead": self._dead(), "unready": self._unready()}})
            case "metrics":
                self._send({"metrics": as_json(taken(self._registry))})
            case "drain":
                self._drain()

    def _send(self, message: Message) -> None:
        with self._sending:
            self._connection.sendall(to_line(message))


def _all_is_well() -> None:
    return None


def _starting() -> str:
    return "starting"
