"""The worker's end of the socket to the supervisor."""

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

from animora_server.observability.aggregation import collect_metrics, to_json
from animora_server.observability.probes import Check
from animora_server.settings import Settings
from animora_server.workers.ipc_messages import Message, decode_message, encode_message

log = structlog.get_logger(__name__)


class ParentChannel:
    """Answers the supervisor's requests.

    It runs on its own thread, so that it can report an event loop that hangs. When the supervisor ends, the
    socket closes and this process exits.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = Lock()
        self._registry = CollectorRegistry()
        self._dead: Check = _alive
        self._unready: Check = _starting
        self._drain: Callable[[], object] = lambda: os._exit(0)
        first = decode_message(self._lines.readline())
        self.name: str = first["name"]
        self.device_socket: str | None = first["device_socket"]
        self.settings = Settings.model_validate(first["settings"])

    @classmethod
    def from_stdin(cls) -> Self:
        """Takes over standard input as the socket, and redirects descriptor 0 to the null device."""
        connection = socket.socket(fileno=os.dup(0))
        with open(os.devnull, "rb") as null:
            os.dup2(null.fileno(), 0)
        return cls(connection)

    def start(self) -> None:
        """Starts to answer. Until `set_readiness`, the worker reports that it is starting."""
        Thread(target=self._answer_requests, name="parent", daemon=True).start()

    def drain_event(self) -> asyncio.Event:
        """Returns an event that `drain` sets. Without this call, `drain` ends the process at once."""
        draining = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._drain = lambda: loop.call_soon_threadsafe(draining.set)
        return draining

    def set_metrics(self, registry: CollectorRegistry, dead: Check) -> None:
        """Sets the metrics and the liveness check that are reported."""
        self._registry, self._dead = registry, dead

    def set_readiness(self, unready: Check) -> None:
        """Sets the readiness check that is reported."""
        self._unready = unready

    def send_config_error(self, message: str) -> None:
        """Reports an invalid option."""
        self._send({"refused": message})

    def send_final_metrics(self) -> None:
        """Sends the metrics of this process one last time, so that the totals stay exact."""
        with suppress(OSError):  # the supervisor has ended
            self._send({"metrics": to_json(collect_metrics(self._registry))})

    def _answer_requests(self) -> None:
        with suppress(OSError):
            for line in self._lines:
                try:
                    self._answer_one(decode_message(line)["ask"])
                except OSError:
                    raise
                except Exception:  # thread boundary: one answer is lost, later ones are not
                    log.exception("answering the supervisor failed")
        log.critical("supervisor process ended; exiting")
        if self.device_socket is not None:  # the supervisor can no longer remove its folder
            shutil.rmtree(Path(self.device_socket).parent, ignore_errors=True)
        os._exit(1)

    def _answer_one(self, request: str) -> None:
        match request:
            case "state":
                self._send({"state": {"dead": self._dead(), "unready": self._unready()}})
            case "metrics":
                self._send({"metrics": to_json(collect_metrics(self._registry))})
            case "drain":
                self._drain()

    def _send(self, message: Message) -> None:
        with self._sending:
            self._connection.sendall(encode_message(message))


def _alive() -> None:
    return None


def _starting() -> str:
    return "starting"
