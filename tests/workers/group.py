"""`animora-server serve --workers` as processes: started, watched through their log and their HTTP port."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.pages import get
from tests.support.processes import animora_environment, children
from tests.support.until import HANG_TIMEOUT, until

Event = dict[str, Any]
INTERVAL = 0.05  # seconds between two polls


class Group:
    """A supervisor and its workers.

    Attributes:
        process: The supervisor.
        events: What they have logged so far.
        other_lines: What they wrote to standard error besides.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[Event] = []
        self.other_lines: list[str] = []
        self._more = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def logged(self, holds: Callable[[Event], bool], count: int = 1) -> list[Event]:
        """The events for which a condition holds, once there are `count` of them."""
        async with asyncio.timeout(HANG_TIMEOUT), self._more:
            while len(found := [event for event in self.events if holds(event)]) < count:
                if self._reading.done():
                    raise AssertionError(f"the server ended before it logged that:\n{self.log()}")
                await self._more.wait()
        return found

    async def grpc_port(self) -> int:
        """The port of the workers."""
        return int((await self._started())["grpc_port"])

    async def http_port(self) -> int:
        """The port of the supervisor's metrics."""
        return int((await self._started())["http_port"])

    async def serving(self, count: int, without: int | None = None, others: int = 0) -> list[int]:
        """Waits until `count` workers serve and a process is gone; returns the ids of all children."""
        pids: list[int] = []

        async def serve() -> bool:
            # In this order: a worker is counted until its end is noticed, and only then is there another.
            pids[:] = self.pids()
            is_complete = len(pids) == count + others and without not in pids
            return is_complete and await self.value("animora_workers_serving") == count

        await until(serve, INTERVAL)
        return pids

    async def serving_with_device(self, count: int, without: int | None = None) -> tuple[int, list[int]]:
        """As `serving`, with a shared device: the id of its process, and those of the workers."""
        # Without the device they do not serve, so that its process is there before them.
        pids = await self.serving(count, without, others=1)
        started = {event["pid"] for event in await self.logged(lambda event: event["event"] == "sharing")}
        (device,) = started & set(pids)
        return device, [pid for pid in pids if pid != device]

    async def page(self, path: str) -> str:
        """A page of the supervisor."""
        return await asyncio.to_thread(get, await self.http_port(), path)

    async def metrics(self) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples, by name and labels."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(await self.page("/metrics"))
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have certain labels."""
        return sum(
            value
            for (sample, of), value in (await self.metrics()).items()
            if sample == name and of >= set(labels.items())
        )

    def command_lines(self) -> list[bytes]:
        """The command lines of the workers."""
        return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.pids()]

    def pids(self) -> list[int]:
        """The ids of the supervisor's children."""
        return children(self.process.pid)

    def log(self) -> str:
        """All events and lines written so far."""
        return "\n".join([*map(str, self.events), *self.other_lines])

    async def end(self) -> int:
        """Waits until the supervisor has ended and its log is read; returns its exit status."""
        async with asyncio.timeout(HANG_TIMEOUT):
            await self._reading
            return await self.process.wait()

    async def _started(self) -> Event:
        return (await self.logged(lambda event: event["event"] == "starting workers"))[0]

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._more:
                try:
                    self.events.append(json.loads(line))
                except json.JSONDecodeError:
                    self.other_lines.append(line.decode())
                self._more.notify_all()
        async with self._more:
            self._more.notify_all()


@asynccontextmanager
async def group(*arguments: str, **options: str) -> AsyncIterator[Group]:
    """Starts `serve` with arguments and ANIMORA_ options; kills it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "animora_server", "serve", *arguments),
        env=animora_environment(**options),
        stderr=asyncio.subprocess.PIPE,
    )
    started = Group(process)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await started.end()  # the workers end with it, and close the log
