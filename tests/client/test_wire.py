"""Messages and statuses that only a defective server sends."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import status_pb2

from animora_client import Internal, Ranking, Unavailable
from animora_client.status import read_failed_call, read_status
from animora_client.wire import read_batch, read_page, read_ranking
from animora_proto.ranking.v1 import ranking_pb2

UNREADABLE = Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")


def failed_call(details: bytes) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", details), ("x-request-id", "r1"))
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "draining")


def test_a_batch_with_too_few_results_is_an_error():
    with pytest.raises(Internal, match="1 results for 2 requests"):
        read_batch(ranking_pb2.BatchRankResponse(results=[ranking_pb2.RankResult()]), 2)


def test_the_arm_of_an_answer_is_read():
    assert read_ranking(ranking_pb2.RankResponse(arm="canary")).arm == "canary"
    assert read_page(ranking_pb2.GetTimelineResponse(arm="canary")).arm == "canary"


def test_an_empty_or_inconsistent_result_is_an_error_of_its_request_alone():
    lopsided = ranking_pb2.RankResult(response=ranking_pb2.RankResponse(post_ids=[1]))
    whole = ranking_pb2.RankResult(response=ranking_pb2.RankResponse(post_ids=[1], scores=[0.5]))
    message = ranking_pb2.BatchRankResponse(results=[ranking_pb2.RankResult(), lopsided, whole])

    nothing, broken, ranking = read_batch(message, 3)

    assert isinstance(nothing, Internal)
    assert isinstance(broken, Internal)
    assert isinstance(ranking, Ranking)
    assert ranking.post_ids == (1,)


@pytest.mark.parametrize(
    "details",
    [
        b"\xff",
        status_pb2.Status(code=14, message="draining", details=[UNREADABLE]).SerializeToString(),
        status_pb2.Status(code=3, message="draining").SerializeToString(),
    ],
    ids=["no status", "an unreadable detail", "another code"],
)
def test_invalid_status_details_are_ignored(details):
    error = read_failed_call(failed_call(details))

    assert type(error) is Unavailable
    assert (error.message, error.request_id, error.retry_after) == ("draining", "r1", None)


def test_unknown_codes_and_unreadable_details_in_a_batch_become_errors():
    assert read_status(status_pb2.Status(code=99, message="?")).code is grpc.StatusCode.UNKNOWN
    assert type(read_status(status_pb2.Status(code=14, details=[UNREADABLE]))) is Unavailable
