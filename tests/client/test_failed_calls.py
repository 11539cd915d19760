"""Retries, deadlines and typed errors of failed calls."""

import asyncio
import math
import pickle

import grpc
import pytest
from google.rpc import error_details_pb2

from animora_client import (
    AsyncRankingClient,
    ChannelOptions,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    PermissionDenied,
    RankingClient,
    RankingError,
    RankRequest,
    ResourceExhausted,
    RetryPolicy,
    Unauthenticated,
    Unavailable,
)
from animora_client.connection import LONGEST_TIMEOUT
from animora_proto.ranking.v1 import ranking_pb2
from tests.client.scripted_server import answering, bad_request, failing, hanging, ranked, retry_info, serving

Code = grpc.StatusCode


async def test_a_wrong_field_is_named(client, server):
    detail = bad_request("post_ids", "must hold 1 to 10,000 ids")
    server.script = [failing(Code.INVALID_ARGUMENT, "post_ids: must hold 1 to 10,000 ids", detail)]

    with pytest.raises(InvalidArgument) as raised:
        await client.rank(7, [])

    error = raised.value
    assert error.field == "post_ids"
    assert error.violations == (FieldViolation("post_ids", "must hold 1 to 10,000 ids"),)
    assert error.request_id == "request-1"
    assert str(error) == "INVALID_ARGUMENT: post_ids: must hold 1 to 10,000 ids (request request-1)"


async def test_an_overload_error_has_its_retry_delay(client, server):
    server.script = [failing(Code.RESOURCE_EXHAUSTED, "too many calls in flight", retry_info(60.25))]

    with pytest.raises(ResourceExhausted) as raised:
        await client.rank(7, [1])

    assert raised.value.retry_after == 60.25
    assert len(server.requests) == 1, "the delay is longer than the timeout"


async def test_an_error_has_its_machine_readable_reason(client, server):
    reason = error_details_pb2.ErrorInfo(reason="MODEL_NOT_RESIDENT", domain="animora")
    server.script = [failing(Code.FAILED_PRECONDITION, "not resident", reason)]

    with pytest.raises(FailedPrecondition) as raised:
        await client.rank(7, [1], model_version="v0")

    assert (raised.value.reason, raised.value.retry_after) == ("MODEL_NOT_RESIDENT", None)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAUTHENTICATED, Unauthenticated),
        (Code.PERMISSION_DENIED, PermissionDenied),
        (Code.INTERNAL, Internal),
        (Code.UNIMPLEMENTED, Internal),
    ],
)
async def test_each_permanent_code_has_its_error_class_and_is_not_retried(client, server, code, kind):
    server.script = [failing(code, "no")]

    with pytest.raises(kind) as raised:
        await client.rank(7, [1])

    assert raised.value.code is code
    assert type(raised.value) is kind
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED])
async def test_a_call_is_retried_while_the_server_is_unavailable(client, server, code):
    server.script = [failing(code, "draining"), failing(code, "draining")]

    assert (await client.rank(7, [1, 2])).post_ids == (2, 1)
    assert len(server.requests) == 3


async def test_a_request_larger_than_grpcs_default_retry_buffer_is_retried(client, server):
    server.script = [failing(Code.UNAVAILABLE, "draining")]
    requests = [RankRequest(user, range(user * 8000, (user + 1) * 8000)) for user in range(8)]  # 512 kB

    results = await client.batch_rank(requests)

    assert [result.post_ids[0] for result in results] == [(user + 1) * 8000 - 1 for user in range(8)]
    assert len(server.metadata) == 2


async def test_retries_end_after_the_maximum_number_of_attempts(client, server):
    server.script = [failing(Code.UNAVAILABLE, "draining")] * 9

    with pytest.raises(Unavailable, match="draining"):
        await client.rank(7, [1])

    assert len(server.requests) == 5


async def test_retries_can_be_turned_off(server):
    server.script = [failing(Code.CANCELLED, "draining")]
    single_attempt = ChannelOptions(retry=RetryPolicy(max_attempts=1))

    async with AsyncRankingClient(server.target, timeout=10, channel=single_attempt) as client:
        with pytest.raises(Unavailable):
            await client.rank(7, [1])

    assert len(server.requests) == 1


FAST_RETRIES = RetryPolicy(initial_backoff=0.003, max_backoff=0.003)


async def fail_at_first(request, context):
    """A server that answers each call's second attempt."""
    earlier = dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts", "0")
    return await (ranked if int(earlier) else failing(Code.UNAVAILABLE, "starting"))(request, context)


async def test_every_call_is_retried_in_a_burst_of_failures(server):
    """As while a server restarts."""
    server.script = [fail_at_first] * 800
    async with AsyncRankingClient(
        server.target, timeout=60, channel=ChannelOptions(retry=FAST_RETRIES)
    ) as client:
        for _ in range(4):
            await asyncio.gather(*(client.rank(7, [1]) for _ in range(100)))

    assert len(server.requests) == 800


async def test_retries_do_not_multiply_the_calls_while_failures_last(server):
    server.script = [fail_at_first] * 6000
    async with AsyncRankingClient(
        server.target, timeout=60, channel=ChannelOptions(retry=FAST_RETRIES)
    ) as client:
        outcomes = []
        for _ in range(30):
            calls = (client.rank(7, [1]) for _ in range(100))
            outcomes += await asyncio.gather(*calls, return_exceptions=True)

    answered = sum(not isinstance(outcome, BaseException) for outcome in outcomes)
    # 500 failed attempts, as many as successes make up for, and those of the calls in flight.
    assert answered <= len(server.requests) - 3000 <= 500 + 0.2 * answered + 100
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} == {Unavailable}


async def test_a_single_address_is_called_though_its_health_is_not_serving(client, server):
    """The address may be a proxy, where the health of one server does not stand for the others."""
    await server.set_health(serving=False)

    assert (await client.rank(7, [1])).post_ids == (1,)


async def test_of_several_addresses_only_serving_ones_are_called(server):
    async with serving() as other:
        await other.set_health(serving=False)
        async with AsyncRankingClient(f"ipv4:{other.target},{server.target}", timeout=30) as client:
            for _ in range(10):
                await client.rank(7, [1])

    assert (len(server.requests), other.requests) == (10, [])


async def test_with_health_checks_a_single_not_serving_server_is_not_called(server):
    await server.set_health(serving=False)

    async with AsyncRankingClient(
        server.target, timeout=0.2, channel=ChannelOptions(health_check=True)
    ) as client:
        with pytest.raises(Unavailable, match="no server could be reached in time"):
            await client.rank(7, [1])

    assert server.requests == []


async def test_extra_channel_arguments_override_those_of_the_client(server):
    small = ChannelOptions(extra=(("grpc.max_receive_message_length", 4),))

    async with AsyncRankingClient(server.target, timeout=10, channel=small) as client:
        with pytest.raises(ResourceExhausted):
            await client.rank(7, [1])


async def test_a_target_where_nobody_listens_is_unavailable(unused_target):
    def call():
        with RankingClient(unused_target, timeout=0.2) as client:
            client.rank(7, [1])

    async with AsyncRankingClient(unused_target, timeout=0.2) as client:
        with pytest.raises(Unavailable, match="no server could be reached in time"):
            await client.rank(7, [1])
    with pytest.raises(Unavailable, match="no server could be reached in time"):
        await asyncio.to_thread(call)


@pytest.mark.parametrize("attempts", [1, 5])
async def test_a_call_waits_until_its_deadline_for_a_server_to_start(unused_port, attempts):
    options = ChannelOptions(retry=RetryPolicy(max_attempts=attempts))
    async with AsyncRankingClient(f"127.0.0.1:{unused_port}", timeout=60, channel=options) as client:
        waiting = asyncio.create_task(client.rank(7, [1]))
        with pytest.raises(Unavailable, match="refused"):
            await client.health()  # health does not wait
        async with serving(port=unused_port):
            assert (await waiting).post_ids == (1,)


async def test_a_call_without_a_response_in_time_raises_deadline_exceeded(client, server):
    await client.rank(7, [1])  # connects
    server.script = [hanging]

    with pytest.raises(DeadlineExceeded):
        await client.rank(7, [1], timeout=0.1)


async def test_the_clients_timeout_is_the_default_of_a_call(server):
    server.script = [ranked, hanging, ranked, hanging]

    def call():
        with RankingClient(server.target, timeout=0.1) as client:
            client.rank(7, [1], timeout=30)
            with pytest.raises(DeadlineExceeded):
                client.rank(7, [1])

    async with AsyncRankingClient(server.target, timeout=0.1) as client:
        await client.rank(7, [1], timeout=30)
        with pytest.raises(DeadlineExceeded):
            await client.rank(7, [1])
    await asyncio.to_thread(call)


async def test_a_timeout_that_is_not_positive_is_refused(client, server):
    with pytest.raises(ValueError, match="above 0"):
        await client.rank(7, [1], timeout=0)
    with pytest.raises(ValueError, match="above 0"):
        AsyncRankingClient(server.target, timeout=float("nan"))


@pytest.mark.parametrize("endless", [math.inf, 1e10])
async def test_a_timeout_that_overflows_in_grpc_is_refused(client, server, endless):
    with pytest.raises(ValueError, match="at most"):
        await client.rank(7, [1], timeout=endless)
    with pytest.raises(ValueError, match="at most"):
        RankingClient(server.target, timeout=endless)


async def test_the_longest_timeout_does_not_overflow_in_grpc(client, server):
    assert (await client.rank(7, [1], timeout=LONGEST_TIMEOUT)).posts


async def test_a_cancelled_task_stays_cancelled(client, server):
    arrived = asyncio.Event()

    async def signalling(request, context):
        arrived.set()
        return await hanging(request, context)

    server.script = [signalling]
    task = asyncio.create_task(client.rank(7, [1]))
    await arrived.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_ranking_with_fewer_scores_than_posts_is_an_error(client, server):
    server.script = [answering(ranking_pb2.RankResponse(post_ids=[1, 2], scores=[0.5]))]

    with pytest.raises(Internal, match="2 posts, 1 scores"):
        await client.rank(7, [1, 2])


async def test_an_error_can_be_pickled(client, server):
    server.script = [failing(Code.RESOURCE_EXHAUSTED, "too many calls in flight", retry_info(60.25))]
    with pytest.raises(RankingError) as raised:
        await client.rank(7, [1])

    copy = pickle.loads(pickle.dumps(raised.value))

    assert type(copy) is ResourceExhausted
    assert (str(copy), copy.retry_after) == (str(raised.value), 60.25)


@pytest.mark.parametrize(
    "numbers",
    [
        {"max_attempts": 0},
        {"max_attempts": 6},
        {"initial_backoff": 0},
        {"initial_backoff": 0.001},
        {"initial_backoff": 2, "max_backoff": 1},
        {"budget": 0},
        {"budget": float("nan")},
    ],
)
def test_an_invalid_retry_policy_is_refused(numbers):
    with pytest.raises(ValueError, match="must be"):
        RetryPolicy(**numbers)
