"""The sides of the comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tests.benchmarks import h2load
from tests.benchmarks.load import Turn
from tests.benchmarks.peers.generator import Exchange, connected, drive
from tests.benchmarks.peers.protocols import Wire
from tests.benchmarks.peers.queries import Query
from tests.benchmarks.processes import ALL_CORES, Server

BODIES = 4  # messages that h2load repeats, on as many processes


@dataclass(frozen=True, slots=True)
class Shape:
    """Users of a call, and number of concurrent calls."""

    users: int
    callers: int


SINGLE = Shape(users=1, callers=64)
BATCH = Shape(users=32, callers=8)


@dataclass(frozen=True, slots=True)
class Side:
    """A server, a protocol, and the exchanges that load it."""

    server: Server
    wire: Wire
    shape: Shape
    exchanges: Sequence[Exchange]

    @property
    def transport(self) -> str:
        """Name of the transport."""
        return "gRPC" if self.wire.route.is_grpc else "HTTP"

    @classmethod
    def of(cls, server: Server, wire: Wire, shape: Shape, queries: Sequence[Query]) -> Self:
        """Splits the queries into calls of the shape."""
        starts = range(0, len(queries), shape.users)
        exchanges = [Exchange(wire, queries[start : start + shape.users]) for start in starts]
        return cls(server, wire, shape, exchanges)

    async def check_replies(self, seconds: float) -> Turn:
        """Loads the server with distinct calls and checks every reply.

        Raises:
            ExceptionGroup: A call failed, or a reply was wrong.
        """
        return await drive(self.server, self.wire.route, self.exchanges, self.shape.callers, seconds)

    async def turn(self, seconds: int) -> Turn:
        """Measures by h2load if it is installed, else by our own generator.

        Raises:
            RuntimeError: A call failed, or a reply was wrong.
            ExceptionGroup: Likewise, by our own generator.
        """
        if not h2load.installed():
            return await self.check_replies(seconds)
        async with connected(self.server, self.wire.route) as send:
            recorded = [await exchange.record(send) for exchange in self.exchanges[:BODIES]]
        load = h2load.Load(callers=self.shape.callers, cores=ALL_CORES)
        return await h2load.drive(self.server, recorded, seconds, load)
