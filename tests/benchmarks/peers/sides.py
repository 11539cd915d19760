"""The sides of the comparison, and how one takes its turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tests.benchmarks import h2load
from tests.benchmarks.load import Turn
from tests.benchmarks.peers.asking import Exchange, connected, drive
from tests.benchmarks.peers.protocols import Wire
from tests.benchmarks.peers.questions import Question
from tests.benchmarks.processes import ALL_CORES, Server

BODIES = 4  # messages that h2load repeats, on as many processes


@dataclass(frozen=True, slots=True)
class Shape:
    """What a call is like: so many users, and so many calls under way at once."""

    users: int
    callers: int


SINGLE = Shape(users=1, callers=64)
BATCH = Shape(users=32, callers=8)


@dataclass(frozen=True, slots=True)
class Side:
    """A way to have users ranked for: a server, a protocol, and what is asked."""

    server: Server
    wire: Wire
    shape: Shape
    exchanges: Sequence[Exchange]

    @property
    def transport(self) -> str:
        """In a word."""
        return "gRPC" if self.wire.route.is_grpc else "HTTP"

    @classmethod
    def of(cls, server: Server, wire: Wire, shape: Shape, questions: Sequence[Question]) -> Self:
        """One that asks the questions, as many at once as the shape has users."""
        starts = range(0, len(questions), shape.users)
        exchanges = [Exchange(wire, questions[start : start + shape.users]) for start in starts]
        return cls(server, wire, shape, exchanges)

    async def look(self, seconds: float) -> Turn:
        """Has every reply looked at, while the server batches different questions.

        Raises:
            ExceptionGroup: A call failed, or a reply was wrong.
        """
        return await drive(self.server, self.wire.route, self.exchanges, self.shape.callers, seconds)

    async def turn(self, seconds: int) -> Turn:
        """Measures: by h2load where it is installed, else by our own generator.

        Raises:
            RuntimeError: A call failed, or a reply was wrong.
            ExceptionGroup: Likewise.
        """
        if not h2load.installed():
            return await self.look(seconds)
        async with connected(self.server, self.wire.route) as send:
            asked = [await exchange.asked(send) for exchange in self.exchanges[:BODIES]]
        load = h2load.Load(callers=self.shape.callers, cores=ALL_CORES)
        return await h2load.drive(self.server, asked, seconds, load)
