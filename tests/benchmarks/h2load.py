"""Unary calls driven by h2load (Debian's nghttp2-client), whose CPU time is a tenth of a Python client's."""

import asyncio
import re
import shutil
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from animora.ranking.v1 import ranking_pb2 as pb
from animora_client.bench.checking import wrong_with
from animora_server.service import SERVICE_NAME
from tests.benchmarks.load import CALLERS, Turn
from tests.benchmarks.processes import LOAD_CORES, Server

PATH = f"/{SERVICE_NAME}/Rank"
CONNECTIONS = 2  # of each h2load, of which there is one for each request: it knows only one body
FRAME = struct.Struct(">BI")  # of a gRPC message: compressed or not, and its length
COUNTS = re.compile(
    r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, .*?\n"
    r"status codes: (\d+) 2xx.*?\ntraffic: .*\((\d+)\) data",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the bytes that answer it: the same each time."""

    request: pb.RankRequest
    reply: bytes


@dataclass(frozen=True, slots=True)
class Pace:
    """How one h2load asks: for so long, over so many connections, with so many calls at once on each.

    Attributes:
        rate: Calls a second on each connection, or None for as many as are answered.
    """

    seconds: int
    connections: int
    streams: int
    rate: float | None


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
            wrong = wrong_with(response, np.sort(request.post_ids), request.limit)
            if wrong or reply != again or response.ranker != pb.RANKER_NEUCF:
                raise RuntimeError(
                    f"{server.name}: {wrong or 'not by NEUCF, or not the same twice'}\n{response}"
                )
            answered.append(Asked(request, reply))
    return answered


async def drive(
    server: Server, requests: Sequence[Asked], seconds: int, rate: float | None = None, workers: int = 1
) -> Turn:
    """Asks a server the same requests over and over, CALLERS at once or at a rate (calls a second).

    Args:
        server: Which.
        requests: What is asked.
        seconds: For how long.
        rate: Calls a second, or None for as many as it can do.
        workers: It has so many; each gets as many callers and connections as one alone would, on average.

    Raises:
        RuntimeError: A call failed, or the replies have not the bytes that they should have.
    """
    streams = CALLERS // (CONNECTIONS * len(requests))
    connections = CONNECTIONS * workers
    rate = None if rate is None else rate / (connections * len(requests))
    pace = Pace(seconds, connections, streams, rate)
    with tempfile.TemporaryDirectory() as folder:
        before = server.cpu_seconds()
        counts = await asyncio.gather(
            *(_h2load(server, each, pace, Path(folder) / str(number)) for number, each in enumerate(requests))
        )
        cpu = server.cpu_seconds() - before
        logs = (Path(folder) / f"{number}.log" for number in range(len(requests)))
        took = np.concatenate([np.loadtxt(log, usecols=2) for log in logs])  # microseconds
    calls = sum(counts)
    p50, p99 = np.percentile(took, (50, 99)) / 1e3
    return Turn(calls / seconds, float(p50), float(p99), cpu / calls * 1e6)


async def _h2load(server: Server, each: Asked, pace: Pace, place: Path) -> int:
    """How many calls were answered as they should be."""
    body = each.request.SerializeToString()
    place.with_suffix(".body").write_bytes(FRAME.pack(0, len(body)) + body)
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", LOAD_CORES, "h2load", f"http://{server.target}{PATH}"),
        *("--duration", str(pace.seconds), "--clients", str(pace.connections)),
        *("--max-concurrent-streams", str(pace.streams)),
        *("--data", str(place.with_suffix(".body")), "--log-file", str(place.with_suffix(".log"))),
        *("--header", "content-type: application/grpc", "--header", "te: trailers"),
        *(() if pace.rate is None else ("--rps", f"{pace.rate:g}")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    found = COUNTS.search(output)
    if process.returncode or found is None:
        raise RuntimeError(f"h2load failed:\n{output}")
    done, succeeded, fine, received = (int(number) for number in found.groups())
    expected = done * (FRAME.size + len(each.reply))
    # What was under way at the end may have brought its data, but is not done.
    under_way = pace.connections * pace.streams * (FRAME.size + len(each.reply))
    if not (done == succeeded == fine > 0 and 0 <= received - expected <= under_way):
        raise RuntimeError(f"{server.name}: {expected:,} bytes of replies were expected\n{output}")
    return done
