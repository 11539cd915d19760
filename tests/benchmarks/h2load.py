"""Unary calls driven by h2load (Debian's nghttp2-client), whose CPU time is a tenth of a Python client's."""

import asyncio
import re
import shutil
import struct
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

PATH = f"/{SERVICE_NAME}/Rank"
CONNECTIONS = 2  # of each h2load, of which there is one for each request: it knows only one body
GRPC = "application/grpc"
FRAME = struct.Struct(">BI")  # of a gRPC message: compressed or not, and its length
COUNTS = re.compile(
    r"requests: \d+ total, \d+ started, (\d+) done, .*?\ntraffic: .*?\((\d+)\) data",
    re.DOTALL,
)
HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Route:
    """Where to ask.

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
        return FRAME.pack(0, len(message)) + message if self.is_grpc else message

    @property
    def options(self) -> tuple[str, ...]:
        """Of h2load."""
        transport = ("--header", "te: trailers") if self.is_grpc else ("--h1",)
        return (*transport, "--header", f"content-type: {self.content_type}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A message, and the message that answers it: as many bytes each time."""

    route: Route
    message: bytes
    reply: bytes


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked, and from where.

    Attributes:
        callers: Calls under way at once.
        connections: Of gRPC, for each of the requests; others have one for each caller.
        rate: Calls a second, or None for as many as are answered.
        timeout: Seconds that a gRPC call gives the server; None leaves it to the server.
        cores: Where the load runs, as taskset has it.
    """

    callers: int = CALLERS
    connections: int = CONNECTIONS
    rate: float | None = None
    timeout: float | None = None
    cores: str = LOAD_CORES


@dataclass(frozen=True, slots=True)
class Replies:
    """What came back.

    Attributes:
        done: Calls that ended.
        received: Bytes of their data, and of what was still under way.
        took: float64 (done), microseconds of those that ended well, as far as HTTP knows.
    """

    done: int
    received: int
    took: npt.NDArray[np.float64]

    def all_are(self, each: Asked, under_way: int) -> bool:
        """Whether they have the bytes of the expected reply; what was under way may have brought its own."""
        size = len(each.route.framed(each.reply))
        surplus = self.received - self.done * size
        return self.done == len(self.took) and 0 <= surplus <= under_way * size


def installed() -> bool:
    """Whether there is an h2load."""
    return shutil.which("h2load") is not None


async def asked(server: Server, requests: Sequence[pb.RankRequest]) -> list[Asked]:
    """Some requests, of which a server is known to answer each by NEUCF, and rightly.

    Raises:
        RuntimeError: A reply is wrong, or not the same each time.
    """
    async with grpc.aio.insecure_channel(server.target) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)
        answered = []
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
            answered.append(Asked(Route(PATH), body, reply))
    return answered


async def drive(server: Server, requests: Sequence[Asked], seconds: int, load: Load = Load()) -> Turn:
    """Asks a server the same requests over and over.

    Raises:
        RuntimeError: A call failed, or the replies have not the bytes that they should have.
    """
    before = server.cpu_seconds()
    replies = await flood(server, requests, seconds, load)
    cpu = server.cpu_seconds() - before
    for each, came in zip(requests, replies, strict=True):
        if not (came.done and came.all_are(each, load.callers)):
            raise RuntimeError(f"{server.name}: a call failed, or a reply was not the one expected")
    calls = sum(came.done for came in replies)
    p50, p99 = np.percentile(np.concatenate([came.took for came in replies]), (50, 99)) / 1e3
    return Turn(calls / seconds, float(p50), float(p99), cpu / calls * 1e6)


async def flood(server: Server, requests: Sequence[Asked], seconds: int, load: Load) -> list[Replies]:
    """Asks a server the same requests over and over, each by an h2load of its own, whatever it answers.

    Raises:
        RuntimeError: The h2loads failed.
    """
    share = replace(
        load,
        callers=load.callers // len(requests),
        rate=None if load.rate is None else load.rate / len(requests),
    )
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(number) for number in range(len(requests))]
        return await asyncio.gather(
            *(
                _h2load(server, each, seconds, share, place)
                for each, place in zip(requests, places, strict=True)
            )
        )


async def _h2load(server: Server, each: Asked, seconds: int, load: Load, place: Path) -> Replies:
    place.with_suffix(".body").write_bytes(each.route.framed(each.message))
    connections = load.connections if each.route.is_grpc else load.callers
    timeout = None if load.timeout is None else f"grpc-timeout: {round(load.timeout * 1e3)}m"
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", load.cores, "h2load", f"http://{server.target}{each.route.path}"),
        *("--duration", str(seconds), "--clients", str(connections)),
        *("--max-concurrent-streams", str(load.callers // connections)),
        *("--data", str(place.with_suffix(".body")), "--log-file", str(place.with_suffix(".log"))),
        *each.route.options,
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
    status, took = np.loadtxt(place.with_suffix(".log"), usecols=(1, 2), ndmin=2).T
    return Replies(done, received, took[status == HTTP_OK])
