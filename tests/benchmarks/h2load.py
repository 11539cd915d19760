"""Unary calls driven by h2load (Debian's nghttp2-client), whose CPU time is a tenth of a Python client's."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt

from animora_client.bench.checking import find_problem
from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.service import SERVICE_NAME
from tests.benchmarks.load import CALLERS, Turn
from tests.benchmarks.processes import LOAD_CORES, Server
from tests.support.http2 import grpc_message

PATH = f"/{SERVICE_NAME}/Rank"
CONNECTIONS = 2  # of each h2load, of which there is one for each request: it repeats one body
GRPC = "application/grpc"
COUNTS = re.compile(
    r"requests: \d+ total, \d+ started, (\d+) done, .*?\ntraffic: .*?\((\d+)\) data",
    re.DOTALL,
)
HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Route:
    """A method of a server.

    Attributes:
        path: Of the URL.
        content_type: Of the body. gRPC's has its frames and HTTP/2; others have HTTP/1.1, with one call at
            once on a connection.
    """

    path: str
    content_type: str = GRPC

    @property
    def is_grpc(self) -> bool:
        """Whether it is a method of gRPC."""
        return self.content_type == GRPC

    def framed(self, message: bytes) -> bytes:
        """The message as it is sent."""
        return grpc_message(message) if self.is_grpc else message

    @property
    def options(self) -> tuple[str, ...]:
        """Of h2load."""
        transport = ("--header", "te: trailers") if self.is_grpc else ("--h1",)
        return (*transport, "--header", f"content-type: {self.content_type}")


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A request message and its reply, which has the same size each time."""

    route: Route
    message: bytes
    reply: bytes


@dataclass(frozen=True, slots=True)
class Load:
    """The shape of a load.

    Attributes:
        callers: Number of concurrent calls.
        connections: Number of gRPC connections for each request; HTTP/1.1 has one for each caller.
        rate: Calls a second; None for a closed loop.
        timeout: Deadline of a gRPC call in seconds; None sends none.
        cores: Cores of the generator, in the syntax of taskset.
    """

    callers: int = CALLERS
    connections: int = CONNECTIONS
    rate: float | None = None
    timeout: float | None = None
    cores: str = LOAD_CORES


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies of one h2load.

    Attributes:
        done: Number of calls that ended.
        received: Bytes of their data, and of calls in flight at the end.
        latencies: float64 (done), microseconds of the calls with HTTP status 200.
    """

    done: int
    received: int
    latencies: npt.NDArray[np.float64]

    def match(self, call: RecordedCall, in_flight: int) -> bool:
        """Whether the replies have the size of the recorded one; calls in flight may add theirs."""
        size = len(call.route.framed(call.reply))
        surplus = self.received - self.done * size
        return self.done == len(self.latencies) and 0 <= surplus <= in_flight * size


def installed() -> bool:
    """Whether there is an h2load."""
    return shutil.which("h2load") is not None


async def record_calls(server: Server, requests: Sequence[pb.RankRequest]) -> list[RecordedCall]:
    """Records the reply of a server to each request, and checks that it is right and by NEUCF.

    Raises:
        RuntimeError: A reply is wrong, or differs between calls.
    """
    async with grpc.aio.insecure_channel(server.target) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)
        recorded = []
        for request in requests:
            body = request.SerializeToString()
            for _ in range(2):  # the first may come from the model, and the next from the cache
                await call(body, timeout=10)
                await asyncio.sleep(0.1)
            reply, again = await call(body, timeout=10), await call(body, timeout=10)
            response = pb.RankResponse.FromString(reply)
            wrong = find_problem(response, np.sort(request.post_ids), request.limit)
            if wrong or reply != again or response.ranker != pb.RANKER_NEUCF:
                raise RuntimeError(
                    f"{server.name}: {wrong or 'not by NEUCF, or not the same twice'}\n{response}"
                )
            recorded.append(RecordedCall(Route(PATH), body, reply))
    return recorded


async def drive(server: Server, calls: Sequence[RecordedCall], seconds: int, load: Load = Load()) -> Turn:
    """Repeats recorded calls, and checks the sizes of the replies.

    Raises:
        RuntimeError: A call failed, or the replies have another size than recorded.
    """
    before = server.cpu_seconds()
    replies = await flood(server, calls, seconds, load)
    cpu = server.cpu_seconds() - before
    for call, reply in zip(calls, replies, strict=True):
        if not (reply.done and reply.match(call, load.callers)):
            raise RuntimeError(f"{server.name}: a call failed, or a reply was not the one expected")
    done = sum(reply.done for reply in replies)
    p50, p99 = np.percentile(np.concatenate([reply.latencies for reply in replies]), (50, 99)) / 1e3
    return Turn(done / seconds, float(p50), float(p99), cpu / done * 1e6)


async def flood(server: Server, calls: Sequence[RecordedCall], seconds: int, load: Load) -> list[Replies]:
    """Repeats calls, each by its own h2load, without checking the replies.

    Raises:
        RuntimeError: The h2loads failed.
    """
    share = replace(
        load,
        callers=load.callers // len(calls),
        rate=None if load.rate is None else load.rate / len(calls),
    )
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(number) for number in range(len(calls))]
        return await asyncio.gather(
            *(_h2load(server, call, seconds, share, place) for call, place in zip(calls, places, strict=True))
        )


async def _h2load(server: Server, call: RecordedCall, seconds: int, load: Load, place: Path) -> Replies:
    place.with_suffix(".body").write_bytes(call.route.framed(call.message))
    connections = load.connections if call.route.is_grpc else load.callers
    timeout = None if load.timeout is None else f"grpc-timeout: {round(load.timeout * 1e3)}m"
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", load.cores, "h2load", f"http://{server.target}{call.route.path}"),
        *("--duration", str(seconds), "--clients", str(connections)),
        *("--max-concurrent-streams", str(load.callers // connections)),
        *("--data", str(place.with_suffix(".body")), "--log-file", str(place.with_suffix(".log"))),
        *call.route.options,
        *(() if timeout is None else ("--header", timeout)),
        *(() if load.rate is None else ("--rps", f"{load.rate / connections:g}")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    found = COUNTS.search(output)
    if process.returncode or found is None:
        raise RuntimeError(f"h2load failed:\n{output}")
    done, received = (int(number) for number in found.groups())
    status, latencies = np.loadtxt(place.with_suffix(".log"), usecols=(1, 2), ndmin=2).T
    return Replies(done, received, latencies[status == HTTP_OK])
