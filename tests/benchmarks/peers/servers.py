"""The peers: what each runs, and its server as a process that works only while it is its turn."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.h2load import Route
from tests.benchmarks.peers.asking import FAILURES, Exchange, connected
from tests.benchmarks.peers.protocols import V2, Json, Raw, Wire
from tests.benchmarks.processes import Server, family

ENVIRONMENTS = Path(".venv-peers")
BYTES, JSON = "application/octet-stream", "application/json"
READY_WITHIN = 120.0  # seconds
SETTLES_WITHIN = 0.5
ENDS_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A model server to stand beside.

    Attributes:
        name: As its project has it.
        folder: Of its requirements and its server, and of its environment.
        wire: How it is asked.
        workers: Processes that rank.
        many: How it is asked for many users a call, where its server takes them.
        environment: Variables that its documentation recommends.
        idles: Whether its server takes no CPU time worth mentioning while nobody asks.
    """

    name: str
    folder: str
    wire: Wire
    workers: int = 1
    many: Wire | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    idles: bool = False

    @property
    def python(self) -> Path:
        """The interpreter of its environment, which `make bench-peers` makes."""
        return ENVIRONMENTS / self.folder / "bin" / "python"


# How many workers each has was found by trial on two cores; the other settings are in each one's server.py.
PEERS: Sequence[Peer] = (
    Peer("mosec", "mosec", Raw(Route("/one", BYTES)), many=Raw(Route("/many", BYTES)), workers=2),
    # PyTriton's processes take one that was stopped for one that died.
    Peer("PyTriton", "pytriton", V2(), idles=True),
    Peer("MLServer", "mlserver", V2(), workers=0),  # 0: in the process that listens
    Peer("LitServe", "litserve", Json(Route("/predict", JSON))),
    Peer(
        "Ray Serve",
        "ray",
        Raw(Route("/", BYTES)),
        environment={"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    ),
)


@asynccontextmanager
async def peer_server(peer: Peer, folder: Path, first: Exchange) -> AsyncIterator[Server]:
    """A peer's server on a free port, once it answers.

    Args:
        peer: Which.
        folder: What PostRanker reads; the server's output goes there too.
        first: What it must answer.

    Raises:
        RuntimeError: It has no environment, or ended, or does not answer within READY_WITHIN.
        Wrong: It answers wrongly.
    """
    if not peer.python.exists():
        raise RuntimeError(f"{peer.python} is not there: `make bench-peers` says why")
    port, log = _free_port(), folder / f"{peer.folder}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(peer.python.absolute(), "-m", f"tests.benchmarks.peers.{peer.folder}.server"),
            *(folder, "--port", str(port), "--workers", str(peer.workers)),
            env={**os.environ, **peer.environment, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    server = Server(peer.name, process.pid, port, idles=peer.idles)
    try:
        try:
            await until_it_answers(server, peer.wire.route, first)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text()[-2000:]}") from error
        yield server
    finally:
        await _end(process)


@asynccontextmanager
async def at_work(server: Server, route: Route, first: Exchange) -> AsyncIterator[None]:
    """Lets a server run that rests, once it answers again, and then has it rest.

    Raises:
        RuntimeError: It does not answer.
    """
    wake(server)
    try:
        await until_it_answers(server, route, first)
        await asyncio.sleep(SETTLES_WITHIN)
        yield
    finally:
        rest(server)


def rest(server: Server) -> None:
    """Stops a server's processes until it is its turn, if they work even while nobody asks."""
    if not server.idles:
        _tell(family(server.pid), signal.SIGSTOP)


def wake(server: Server) -> None:
    """Lets them run on."""
    _tell(family(server.pid), signal.SIGCONT)


async def until_it_answers(server: Server, route: Route, first: Exchange) -> None:
    """Asks until there is a reply.

    Raises:
        Wrong: It is a wrong one.
        RuntimeError: There is none within READY_WITHIN, or the server has ended.
    """
    failure: Exception | None = None
    deadline = time.monotonic() + READY_WITHIN
    while server.is_alive() and time.monotonic() < deadline:
        try:
            async with connected(server, route) as send:
                await first.asked(send)
                return
        except FAILURES as error:
            failure = error
        await asyncio.sleep(0.2)
    raise RuntimeError(f"{server.name} has ended" if not server.is_alive() else f"no answer: {failure}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Asks it to end, then makes whatever it started end too."""
    members = family(process.pid)
    _tell(members, signal.SIGCONT)
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ENDS_WITHIN)
    _tell(members, signal.SIGKILL)
    await process.wait()


def _tell(processes: Sequence[int], what: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
