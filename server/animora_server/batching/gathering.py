"""How long to wait for company before a batch or a round trip: some turns of the event loop, no timer."""

import asyncio
from collections.abc import Callable

# Turns of the event loop without another arrival after which no more is expected: while what arrives shares
# batches, and while it comes alone.
MANY_TURNS, FEW_TURNS = 32, 4
ENOUGH = 32  # arrivals that wait for no more


class Gathering:
    """Lets more arrive, for as long as it keeps arriving.

    gRPC brings concurrent requests some turns of the event loop apart. Waiting for them makes batches of
    several from batches of one: at 32 callers it saves a quarter of Rank's CPU time and a third of a timeline
    hit's, at no cost in latency. What comes alone waits for a few empty turns, some microseconds.
    """

    def __init__(self) -> None:
        self._turns = FEW_TURNS

    async def wait(self, arrived: Callable[[], int]) -> None:
        """Returns once nothing more is expected, or enough has arrived.

        Args:
            arrived: Counts what waits.
        """
        quiet, waiting = 0, arrived()
        while waiting and quiet < self._turns and waiting < ENOUGH:
            await asyncio.sleep(0)
            quiet = quiet + 1 if arrived() == waiting else 0
            waiting = arrived()

    def took(self, count: int) -> None:
        """So many went together: those that had company expect it again."""
        self._turns = MANY_TURNS if count > 1 else FEW_TURNS
