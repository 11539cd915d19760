"""Closed and open loops over a handwritten sender."""

import asyncio

import grpc
import numpy as np
import pytest

from animora_client.bench.checking import OK
from animora_client.bench.driving import SEND_GRACE, Driver, LoadPace
from animora_client.bench.recorder import CallRecorder
from animora_client.bench.traffic import RankCall
from animora_proto.ranking.v1 import ranking_pb2

CALLS = tuple(
    RankCall(name, (np.array([1], np.int64),), limit=0, is_batch=False) for name in (b"a", b"b", b"c")
)
REPLY = ranking_pb2.RankResponse(
    post_ids=[1], scores=[0.5], ranker=ranking_pb2.RANKER_HEURISTIC
).SerializeToString()


class Sender:
    """Answers once `together` calls wait; records what was sent."""

    def __init__(self, together=1):
        self.together = asyncio.Barrier(together)
        self.sent = []

    async def __call__(self, body):
        self.sent.append(body)
        await self.together.wait()
        return REPLY


def driver(send, **pace):
    recorder = CallRecorder(warmup=0)
    return Driver(send, CALLS, LoadPace(**{"duration": 60, "warmup": 0} | pace), recorder), recorder


async def test_a_closed_loop_keeps_its_callers_busy_until_the_call_limit():
    send = Sender(together=4)  # hangs with fewer callers
    load, recorder = driver(send, max_calls=12)

    await load.closed_loop(concurrency=4)

    assert send.sent == [b"a", b"b", b"c"] * 4
    assert len(recorder.done) == 12
    assert recorder.outcome_names == (OK,)
    assert 0 < recorder.elapsed < 60


async def test_a_closed_loop_ends_after_its_duration():
    load, recorder = driver(Sender(), duration=0.02)

    await load.closed_loop(concurrency=2)

    assert recorder.elapsed == 0.02
    assert max(recorder.sent) <= max(recorder.done)


async def test_an_open_loop_sends_without_waiting_for_replies():
    send = Sender(together=5)  # the first reply comes with the fifth call
    load, recorder = driver(send, duration=10)  # in which a busy machine sends five

    await load.open_loop(iter([0.0, 0.001, 0.002, 0.003, 0.004, 10.0]))

    assert len(send.sent) == 5
    assert sorted(recorder.intended) == [0.0, 0.001, 0.002, 0.003, 0.004]
    assert all(sent >= intended for sent, intended in zip(recorder.sent, recorder.intended, strict=True))
    assert recorder.unsent == 0


async def test_calls_without_a_free_slot_before_the_end_are_counted_as_unsent():
    over = asyncio.Event()

    async def stuck(body):
        await over.wait()
        return REPLY

    load, recorder = driver(stuck, duration=0.2, max_in_flight=2)
    asyncio.get_running_loop().call_later(0.2 + 2 * SEND_GRACE, over.set)

    await load.open_loop(iter([0.0, 0.001, 0.002, 0.003, 0.004, 0.2]))

    assert list(recorder.intended) == [0.0, 0.001]
    assert recorder.unsent == 3


async def test_an_open_loop_ends_at_the_call_limit():
    load, recorder = driver(Sender(), max_calls=2)

    await load.open_loop(iter([0.0] * 9))

    assert len(recorder.done) == 2


async def test_a_call_that_fails_is_counted_by_its_code():
    async def fail(body):
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata()
        )

    load, recorder = driver(fail, max_calls=3)

    await load.closed_loop(concurrency=1)

    assert recorder.outcome_names == ("RESOURCE_EXHAUSTED",)
    assert list(recorder.rankings) == [0, 0, 0]


async def test_a_cancelled_run_keeps_its_measurements():
    send = Sender()

    async def interrupted_at_the_fifth(body):
        if len(send.sent) == 4:
            task.cancel()
            await asyncio.Event().wait()
        return await send(body)

    load, recorder = driver(interrupted_at_the_fifth)
    task = asyncio.create_task(load.closed_loop(concurrency=1))
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(recorder.done) == 4
    assert 0 < recorder.elapsed < 60
