"""The peers, and their servers as processes that are paused outside of their turns."""

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
from tests.benchmarks.peers.generator import FAILURES, Exchange, connected
from tests.benchmarks.peers.protocols import V2, Json, Raw, Wire
from tests.benchmarks.processes import Server, process_tree

ENVIRONMENTS = Path(".venv-peers")
BYTES, JSON = "application/octet-stream", "application/json"
READY_WITHIN = 120.0  # seconds
SETTLES_WITHIN = 0.5
ENDS_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another model server.

    Attributes:
        name: Name of the project.
        folder: Folder of its requirements and server, and of its environment.
        wire: Protocol for one user a call.
        workers: Number of processes that rank.
        batch_wire: Protocol for many users a call, if its server supports that.
        environment: Variables that its documentation recommends.
        idles: Whether its server takes next to no CPU time without calls.
    """

    name: str
    folder: str
    wire: Wire
    workers: int = 1
    batch_wire: Wire | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    idles: bool = False

    @property
    def python(self) -> Path:
        """The interpreter of its environment, which `make bench-peers` creates."""
        return ENVIRONMENTS / self.folder / "bin" / "python"


# How many workers each has was found by trial on two cores; the other settings are in each one's server.py.
PEERS: Sequence[Peer] = (
    Peer("mosec", "mosec", Raw(Route("/one", BYTES)), batch_wire=Raw(Route("/many", BYTES)), workers=2),
    # PyTriton's processes treat a stopped process as dead.
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
    """Starts a peer's server on a free port; yields once it answers.

    Args:
        peer: The peer.
        folder: Input of PostRanker; the server's output is written there.
        first: Call that it must answer.

    Raises:
        RuntimeError: It has no environment, ended, or does not answer within READY_WITHIN.
        WrongReply: Its first reply is wrong.
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
            await wait_until_answering(server, peer.wire.route, first)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text()[-2000:]}") from error
        yield server
    finally:
        await _end(process)


@asynccontextmanager
async def resumed(server: Server, route: Route, first: Exchange) -> AsyncIterator[None]:
    """Resumes a paused server, waits until it answers, and pauses it again at the end.

    Raises:
        RuntimeError: The server does not answer.
    """
    resume(server)
    try:
        await wait_until_answering(server, route, first)
        await asyncio.sleep(SETTLES_WITHIN)
        yield
    finally:
        pause(server)


def pause(server: Server) -> None:
    """Stops a server's processes, unless they idle without calls."""
    if not server.idles:
        _signal(process_tree(server.pid), signal.SIGSTOP)


def resume(server: Server) -> None:
    """Continues the processes of a paused server."""
    _signal(process_tree(server.pid), signal.SIGCONT)


async def wait_until_answering(server: Server, route: Route, first: Exchange) -> None:
    """Repeats a call until there is a reply.

    Raises:
        WrongReply: The reply is wrong.
        RuntimeError: There is no reply within READY_WITHIN, or the server has ended.
    """
    failure: Exception | None = None
    deadline = time.monotonic() + READY_WITHIN
    while server.is_alive() and time.monotonic() < deadline:
        try:
            async with connected(server, route) as send:
                await first.record(send)
                return
        except FAILURES as error:
            failure = error
        await asyncio.sleep(0.2)
    raise RuntimeError(f"{server.name} has ended" if not server.is_alive() else f"no answer: {failure}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Terminates the process, then kills its descendants."""
    members = process_tree(process.pid)
    _signal(members, signal.SIGCONT)
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ENDS_WITHIN)
    _signal(members, signal.SIGKILL)
    await process.wait()


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
