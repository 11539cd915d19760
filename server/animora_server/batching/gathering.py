"""What arrives at about the same time goes on at the same time: some turns of the event loop, no timer."""

import asyncio
import time
from collections.abc import Callable

TURNS = 16  # of the event loop without another arrival, after which no more is expected
ENOUGH = 32  # arrivals that wait for no more
LONGEST = 0.005  # seconds; a loop that is busy with other things may take milliseconds for each turn


class Gathering:
    """Holds calls back for as long as more of them keep arriving.

    gRPC brings concurrent requests some turns of the event loop apart. Let go on in the same turn, they share
    every step from there on, and their answers leave together, which costs gRPC a third less than one by one.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._arrived: list[asyncio.Future[None]] = []

    def arrive(self) -> "asyncio.Future[None]":
        """To be awaited by whoever arrives."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._arrived.append(future)
        if len(self._arrived) == 1:
            loop.call_soon(self._turn, loop, 0, 1, self._clock() + LONGEST)
        return future

    def _turn(self, loop: asyncio.AbstractEventLoop, quiet: int, before: int, latest: float) -> None:
        arrived = len(self._arrived)
        quiet = quiet + 1 if arrived == before else 0
        if quiet < TURNS and arrived < ENOUGH and self._clock() < latest:
            loop.call_soon(self._turn, loop, quiet, arrived, latest)
            return
        released, self._arrived = self._arrived, []
        for future in released:
            if not future.done():  # who was cancelled has gone on already
                future.set_result(None)
