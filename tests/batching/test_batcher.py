"""The batcher: which work shares a batch, which is never executed, and whose failure it is."""

import asyncio
from collections.abc import Sequence

import pytest

from animora_server.batching import Batcher, BatchLimits, CostModel
from animora_server.errors import DeadlineUnreachable, DeviceFault, OutOfDeviceMemory, Overloaded
from tests.support.until import HANG_TIMEOUT


class RecordingDevice:
    """A device that waits for its gate, records its batches, and fails for chosen work."""

    def __init__(self):
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.failures: dict[str, BaseException] = {}
        self.largest = 1000

    async def __call__(self, works: Sequence[str]) -> list[str]:
        self.entered.set()
        await self.gate.wait()
        self.batches.append(list(works))
        if len(works) > self.largest:
            raise OutOfDeviceMemory("too many")
        for work in works:
            if work in self.failures:
                raise self.failures[work]
        return [work.upper() for work in works]


class Observations:
    def __init__(self):
        self.faults = 0
        self.reasons: list[str] = []
        self.sizes: list[tuple[int, int]] = []

    def skipped(self, reason: str) -> None:
        self.reasons.append(reason)

    def executed(self, rows: int, works: int, seconds: float) -> None:
        self.sizes.append((rows, works))

    def faulted(self) -> None:
        self.faults += 1

    def waited(self, seconds: float) -> None:
        assert seconds >= 0


@pytest.fixture
def device() -> RecordingDevice:
    return RecordingDevice()


@pytest.fixture
def seen() -> Observations:
    return Observations()


@pytest.fixture
async def batcher(device, seen):
    cost = CostModel(fixed=0.0, per_row=0.0)
    async with Batcher(device, BatchLimits(max_batch_rows=10, max_queue_rows=40), cost, seen) as batcher:
        yield batcher


def soon() -> float:
    return asyncio.get_running_loop().time() + 60


async def occupy(batcher, device) -> "asyncio.Future[str]":
    """Holds the device with one batch, so that what follows must queue."""
    device.gate.clear()
    device.entered.clear()
    first: asyncio.Future[str] = batcher.submit("first", 1, "k", soon())
    await device.entered.wait()
    return first


async def queue(batcher, work, rows=1, key="k", deadline=None) -> asyncio.Task[str]:
    async def ask() -> str:
        result: str = await batcher.submit(work, rows, key, soon() if deadline is None else deadline)
        return result

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    return task


async def test_work_on_an_idle_device_is_executed_at_once(batcher, device):
    assert await batcher.submit("a", 1, "k", soon()) == "A"
    assert device.batches == [["a"]]


async def test_work_that_queues_while_a_batch_runs_is_the_next_batch(batcher, device, seen):
    first = await occupy(batcher, device)
    rest = [await queue(batcher, work, rows=2) for work in "abc"]
    device.gate.set()
    assert await asyncio.gather(first, *rest) == ["FIRST", "A", "B", "C"]
    assert device.batches == [["first"], ["a", "b", "c"]]
    assert seen.sizes == [(1, 1), (6, 3)]


async def test_work_that_comes_in_one_turn_shares_a_batch(batcher, device):
    await asyncio.gather(batcher.submit("a", 1, "k", soon()), batcher.submit("b", 1, "k", soon()))
    assert device.batches == [["a", "b"]]


async def test_the_event_loop_runs_between_batches_that_complete_at_once(batcher, device):
    seen = set()

    async def look() -> None:
        while True:
            seen.add(len(device.batches))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(batcher.submit(work, 10, "k", soon()) for work in "abc"))
    looking.cancel()
    assert seen >= {1, 2}


async def test_a_batch_holds_no_more_rows_than_allowed(batcher, device):
    first = await occupy(batcher, device)
    rest = [await queue(batcher, work, rows=4) for work in "abc"]
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches[1:] == [["a", "b"], ["c"]]


async def test_work_larger_than_a_batch_runs_alone(batcher, device):
    first = await occupy(batcher, device)
    rest = [await queue(batcher, "large", rows=11), await queue(batcher, "a")]
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches[1:] == [["large"], ["a"]]


async def test_work_of_another_key_waits_for_the_next_batch(batcher, device):
    first = await occupy(batcher, device)
    rest = [await queue(batcher, "a"), await queue(batcher, "b", key="other"), await queue(batcher, "c")]
    device.gate.set()
    await asyncio.gather(first, *rest)
    assert device.batches[1:] == [["a"], ["b"], ["c"]]


@pytest.mark.failure(9)
async def test_a_full_queue_refuses_and_takes_work_again_once_it_drains(batcher, device, seen):
    first = await occupy(batcher, device)
    waiting = await queue(batcher, "a", rows=40)
    with pytest.raises(Overloaded):
        await batcher.submit("b", 1, "k", soon())
    device.gate.set()
    await asyncio.gather(first, waiting)
    assert await batcher.submit("b", 1, "k", soon()) == "B"
    assert seen.reasons == ["refused"]


@pytest.mark.failure(11)
async def test_cancelled_work_leaves_the_queue_at_once_and_never_reaches_the_device(batcher, device, seen):
    first = await occupy(batcher, device)
    waiting = await queue(batcher, "a", rows=40)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert batcher.queued_rows == 0
    neighbour = await queue(batcher, "b", rows=40)
    device.gate.set()
    assert list(await asyncio.gather(first, neighbour)) == ["FIRST", "B"]
    assert device.batches == [["first"], ["b"]]
    assert seen.reasons == ["cancelled"]


@pytest.mark.failure(11)
async def test_work_cancelled_while_it_runs_leaves_its_neighbours_correct(batcher, device):
    device.gate.clear()
    works = [batcher.submit(work, 1, "k", soon()) for work in "abc"]
    await device.entered.wait()
    works[1].cancel()
    device.gate.set()
    results = await asyncio.gather(*works, return_exceptions=True)
    assert device.batches == [["a", "b", "c"]]
    assert isinstance(results[1], asyncio.CancelledError)
    assert [results[0], results[2]] == ["A", "C"]


@pytest.mark.failure(9)
async def test_work_whose_deadline_passes_in_the_queue_is_never_executed(batcher, device, seen):
    loop = asyncio.get_running_loop()
    first = await occupy(batcher, device)
    deadline = loop.time() + 0.02
    late = await queue(batcher, "late", deadline=deadline)
    passed = asyncio.Event()
    loop.call_at(deadline + 0.001, passed.set)
    await passed.wait()
    device.gate.set()
    await first
    with pytest.raises(DeadlineUnreachable):
        await late
    assert await batcher.submit("next", 1, "k", soon()) == "NEXT"
    assert device.batches == [["first"], ["next"]]
    assert seen.reasons == ["expired"]


@pytest.mark.failure(9)
async def test_work_that_will_be_late_is_refused_unless_it_is_a_probe(device, seen):
    cost = CostModel(fixed=10.0, per_row=0.0)
    async with Batcher(device, BatchLimits(probe_interval=1e6), cost, seen) as batcher:
        deadline = asyncio.get_running_loop().time() + 5
        assert await batcher.submit("probe", 1, "k", deadline) == "PROBE"
        with pytest.raises(DeadlineUnreachable):
            await batcher.submit("next", 1, "k", deadline)
    assert device.batches == [["probe"]]
    assert seen.reasons == ["refused"]


async def test_work_of_a_running_batch_fails_at_its_deadline(batcher, device):
    device.gate.clear()
    slow = await queue(batcher, "slow", deadline=asyncio.get_running_loop().time() + 0.5)
    await device.entered.wait()
    with pytest.raises(DeadlineUnreachable):
        await slow
    later = await queue(batcher, "next")
    device.gate.set()
    assert await later == "NEXT"
    assert device.batches == [["slow"], ["next"]]


async def test_a_deadline_in_the_past_is_refused_even_as_a_probe(batcher, device):
    with pytest.raises(DeadlineUnreachable):
        await batcher.submit("a", 1, "k", asyncio.get_running_loop().time() - 1)
    assert device.batches == []


@pytest.mark.failure(12)
async def test_one_poisoned_work_fails_alone(batcher, device):
    poison = ValueError("poison")
    device.failures["c"] = poison
    first = await occupy(batcher, device)
    rest = [await queue(batcher, work) for work in "abcde"]
    device.gate.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert results == ["FIRST", "A", "B", poison, "D", "E"]


async def test_a_device_fault_fails_the_batch_without_another_try(batcher, device, seen):
    device.failures["a"] = DeviceFault("gone")
    first = await occupy(batcher, device)
    rest = [await queue(batcher, work) for work in "ab"]
    device.gate.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [type(result) for result in results] == [str, DeviceFault, DeviceFault]
    assert device.batches == [["first"], ["a", "b"]]
    assert seen.faults == 1


@pytest.mark.parametrize("refusal", [Overloaded(), DeadlineUnreachable()])
async def test_a_batch_that_the_device_refuses_fails_without_another_try(batcher, device, seen, refusal):
    device.failures["a"] = refusal
    works = [batcher.submit(work, 1, "key", soon()) for work in ("a", "b")]
    await asyncio.wait(works)
    assert [work.exception() for work in works] == [refusal, refusal]
    assert device.batches == [["a", "b"]]
    assert not seen.faults


@pytest.mark.failure(14)
@pytest.mark.parametrize(("largest", "expected"), [(1, ["A", "B", "C"]), (0, [OutOfDeviceMemory] * 3)])
async def test_the_work_of_a_batch_that_does_not_fit_is_executed_alone(
    batcher, device, seen, largest, expected
):
    first = await occupy(batcher, device)
    rest = [await queue(batcher, work) for work in "abc"]
    device.largest = largest or 1  # the first is running already
    device.gate.set()
    assert await first == "FIRST"
    device.largest = largest
    results = await asyncio.gather(*rest, return_exceptions=True)
    assert [type(each) if isinstance(each, Exception) else each for each in results] == expected
    assert not seen.faults


async def test_a_background_turn_waits_for_the_running_batch_and_returns_its_result(batcher, device):
    order = []

    async def turn() -> int:
        order.append(list(device.batches))
        return 7

    first = await occupy(batcher, device)
    background = asyncio.create_task(batcher.run_background(turn))
    await asyncio.sleep(0)
    assert order == []
    device.gate.set()
    assert await background == 7
    assert order == [[["first"]]]
    await first


async def test_background_turns_yield_to_batches_once_they_had_their_share(batcher, device):
    turns = 0
    enough = asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        await asyncio.sleep(0.005)  # the turn's own length, which is what the share counts

    async def background() -> None:
        while not enough.is_set():
            await batcher.run_background(turn)

    worker = asyncio.create_task(background())
    for _ in range(50):
        await batcher.submit("a", 1, "k", soon())
    enough.set()
    await worker
    assert len(device.batches) == 50
    assert turns < 50


async def test_background_work_is_executed_alone(batcher, device):
    assert (await batcher.execute_background("a"))[0] == "A"
    assert (await batcher.execute_background("b"))[0] == "B"
    assert device.batches == [["a"], ["b"]]


async def test_background_work_fails_at_once_after_a_device_fault(batcher, device):
    device.gate.clear()
    waiting = asyncio.create_task(batcher.execute_background("a"))
    queued = asyncio.create_task(batcher.execute_background("b"))
    await device.entered.wait()
    batcher.fail(DeviceFault("it hangs"))
    for task in (waiting, queued):
        with pytest.raises(DeviceFault):
            await task
    with pytest.raises(DeviceFault):
        await batcher.execute_background("c")


async def test_a_failing_background_turn_fails_its_caller_alone(batcher):
    async def turn() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        await batcher.run_background(turn)
    assert await batcher.submit("a", 1, "k", soon()) == "A"


async def test_the_batcher_outlives_a_cancellation_that_a_device_raises(batcher, device):
    device.failures["x"] = asyncio.CancelledError()
    with pytest.raises(DeviceFault, match="abandoned"):
        await batcher.submit("x", 1, "k", soon())
    with pytest.raises(DeviceFault, match="abandoned"):
        await batcher.execute_background("x")
    async with asyncio.timeout(HANG_TIMEOUT):
        assert await batcher.submit("a", 1, "k", soon()) == "A"
    assert batcher.runner.failures == {"expected": 0, "unexpected": 2}
    assert batcher.runner.dead() is None


async def test_a_gather_window_lets_more_work_join(device, seen):
    limits = BatchLimits(gather_window=0.02)
    async with Batcher(device, limits, CostModel(fixed=0.0, per_row=0.0), seen) as batcher:
        first = await queue(batcher, "a")
        second = await queue(batcher, "b")
        assert list(await asyncio.gather(first, second)) == ["A", "B"]
    assert device.batches == [["a", "b"]]


@pytest.mark.failure(14)
async def test_a_device_fault_fails_running_waiting_and_later_work(batcher, device):
    running = await occupy(batcher, device)
    waiting = await queue(batcher, "a")
    batcher.fail(DeviceFault("it hangs"))
    for work in (running, waiting, await queue(batcher, "b")):
        with pytest.raises(DeviceFault, match="it hangs"):
            await work


async def test_work_that_still_waits_at_shutdown_fails(device, seen):
    async with Batcher(device, BatchLimits(), CostModel(fixed=0.0, per_row=0.0), seen) as batcher:
        first = await occupy(batcher, device)
        waiting = await queue(batcher, "a")
        assert batcher.running_since is not None
    for work in (first, waiting):
        with pytest.raises(DeviceFault):
            await work


class InlineDevice:
    """Executes work of one letter inline, and fails with the given error."""

    def __init__(self):
        self.works: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, works: Sequence[str]) -> list[str] | None:
        if any(len(work) > 1 for work in works):
            return None
        self.works += works
        if self.failure is not None:
            raise self.failure
        return [work.upper() for work in works]


@pytest.fixture
def inline() -> InlineDevice:
    return InlineDevice()


def with_inline(device, seen, inline, limits=BatchLimits(), **options):  # noqa: B008  # frozen
    return Batcher(device, limits, CostModel(fixed=0.0, per_row=0.0), seen, inline, **options)


async def test_short_work_is_done_before_submit_returns(device, seen, inline):
    async with with_inline(device, seen, inline) as batcher:
        done = batcher.submit("a", 3, "k", soon())
        assert done.done()
        assert await done == "A"
        assert await batcher.submit("long", 1, "k", soon()) == "LONG"
    assert (inline.works, device.batches) == (["a"], [["long"]])
    assert seen.sizes == [(3, 1), (1, 1)]
    assert batcher.queued_rows == 0


async def test_short_work_waits_behind_running_and_queued_work(device, seen, inline):
    async with with_inline(device, seen, inline) as batcher:
        device.gate.clear()
        first = batcher.submit("first", 1, "k", soon())
        behind = batcher.submit("a", 1, "k", soon())  # nothing runs yet, but something waits
        await device.entered.wait()
        later = batcher.submit("b", 1, "k", soon())
        assert not behind.done()
        assert not later.done()
        device.gate.set()
        assert list(await asyncio.gather(first, behind, later)) == ["FIRST", "A", "B"]
    assert inline.works == []


async def test_a_gather_window_turns_inline_execution_off(device, seen, inline):
    async with with_inline(device, seen, inline, BatchLimits(gather_window=0.02)) as batcher:
        both = [batcher.submit(work, 1, "k", soon()) for work in "ab"]
        assert await asyncio.gather(*both) == ["A", "B"]
    assert device.batches == [["a", "b"]]


async def test_inline_work_that_fails_fails_its_caller_alone(device, seen, inline):
    async with with_inline(device, seen, inline) as batcher:
        inline.failure = IndexError("bad row")
        with pytest.raises(IndexError, match="bad row"):
            await batcher.submit("a", 1, "k", soon())
        with pytest.raises(DeadlineUnreachable):
            batcher.submit("b", 1, "k", asyncio.get_running_loop().time() - 1)
        inline.failure = None
        assert await batcher.submit("c", 1, "k", soon()) == "C"
    assert inline.works == ["a", "c"]


async def test_inline_execution_takes_its_share_of_a_turn_and_no_more(device, seen, inline):
    async with with_inline(device, seen, inline, inline_seconds=0.0) as batcher:
        for _ in range(2):
            several = [batcher.submit(work, 1, "k", soon()) for work in "abc"]
            assert [each.done() for each in several] == [True, False, False]
            assert list(await asyncio.gather(*several)) == ["A", "B", "C"]
    assert inline.works == ["a", "a"]
    assert device.batches == [["b", "c"]] * 2


async def test_inline_execution_does_not_starve_a_background_turn(device, seen, inline):
    async with with_inline(device, seen, inline) as batcher:

        async def turn() -> str:
            return "background"

        background = asyncio.create_task(batcher.run_background(turn))
        await asyncio.sleep(0)
        assert not batcher.submit("a", 1, "k", soon()).done()
        assert await background == "background"
