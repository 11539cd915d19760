"""The parts of `make bench-gpu`: what each needs, and its process. Imports nothing that must be installed."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = ("proto", "client", "training", "server", "deploy", ".")  # of the checkout, need not be installed
PACKAGES = ROOT / ".bench/gpu-packages"  # of `make gpu-packages`, for a machine without a network
PREFIX = "figure "  # of a line of a part's output that has a figure
STOP_SECONDS = 8.0  # until a part that was interrupted is killed
MODEL = ("torch", "numpy", "pydantic", "filelock")
SERVER = (
    *("asyncpg", "google.protobuf", "grpc", "grpc_health", "grpc_reflection", "grpc_status", "numba"),
    *("prometheus_client", "pydantic_settings", "redis", "rich", "stamina", "structlog", "typer"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part, in a process of its own: it can be stopped, and a failure of the device ends it alone.

    Attributes:
        name: For the reader.
        module: Of this package.
        share: Of the whole time.
        needs: The packages that it imports.
    """

    name: str
    module: str
    share: float
    needs: tuple[str, ...]

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.needs if not _is_installed(package)]


PARTS = (
    Part("tests", "path_tests", 0.2, (*MODEL, "structlog", "pytest", "pytest_asyncio", "pytest_timeout")),
    Part("scoring", "scoring", 0.32, (*MODEL, "structlog")),
    Part("server", "serving", 0.3, (*MODEL, *SERVER)),
    Part("training", "training", 0.18, MODEL),
)


def run(part: Part, seconds: float, small: bool, say: Callable[[str], object]) -> dict[str, float]:
    """Runs a part within some seconds; returns its figures by name.

    A part that takes longer is stopped, and one may fail: the figures until then count, and a line says why.
    """
    measured: dict[str, float] = {}
    process = subprocess.Popen(
        (
            *(sys.executable, "-m", f"tests.benchmarks.gpu.{part.module}", "--seconds", f"{seconds:g}"),
            *(["--small"] if small else []),
        ),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(python_path(os.environ))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its children are stopped with it
    )
    assert process.stdout is not None
    timers = [
        threading.Timer(seconds + delay, _signal, (process, number))
        for delay, number in ((0.0, signal.SIGINT), (STOP_SECONDS, signal.SIGKILL))
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        with process:
            for line in process.stdout:
                if line.startswith(PREFIX):
                    figure = json.loads(line.removeprefix(PREFIX))
                    measured[figure["name"]] = figure["value"]
                elif line.strip():
                    say(f"  {line.rstrip()}")
    except KeyboardInterrupt:  # a part in a session of its own does not get the terminal's
        _signal(process, signal.SIGKILL)
        raise
    finally:
        cut = not timers[0].is_alive()
        for timer in timers:
            timer.cancel()
    if cut:
        say(f"{part.name}: cut after {seconds:.0f} s; what it had not measured is left out")
    elif process.returncode:
        say(f"{part.name}: failed with status {process.returncode}; what it had not measured is left out")
    return measured


def python_path(environment: Mapping[str, str]) -> list[str]:
    """The folders of the checkout's packages, then those of the environment, and PACKAGES."""
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    return [*(str(ROOT / folder) for folder in SOURCES), *filter(None, given), str(PACKAGES)]


def _signal(process: "subprocess.Popen[str]", number: int) -> None:
    """Sends a signal to the part and its children, if any is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
