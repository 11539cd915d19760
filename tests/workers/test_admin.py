"""The admin port of several workers: a call is answered by one of them, and what it activates all serve."""

import asyncio

import grpc
import pytest

from animora_proto.ranking.v1 import models_pb2 as pb
from animora_proto.ranking.v1 import ranking_pb2
from animora_proto.ranking.v1.models_pb2_grpc import ModelServiceStub
from tests.support.artifacts import tiny_artifact
from tests.support.feed import TRAINED_USERS
from tests.support.ledger import Ledger
from tests.support.until import HANG_TIMEOUT, until
from tests.workers.callers import callers
from tests.workers.group import INTERVAL, Group, group

WORKERS = 2


async def admin_port(servers: Group) -> int:
    """The port that all workers listen on."""
    events = await servers.logged(lambda event: event["event"] == "admin port is listening", WORKERS)
    (port,) = {event["port"] for event in events}
    return int(port)


@pytest.mark.parametrize("shared_device", ["off", "on"])
async def test_a_version_activated_through_one_worker_is_served_by_all_and_no_call_is_lost(
    shared_device, feed, store, options
):
    artifact, network = tiny_artifact("v2", seed=2)
    store.publish(artifact)
    ledger = Ledger(feed, {"v1": tiny_artifact("v1", seed=1)[1], "v2": network})
    options |= {"ADMIN_ENABLED": "true", "ADMIN_PORT": "0", "MODELS_POLL_INTERVAL": "0.2"}
    options["SCORER_SHARED"] = shared_device
    async with (
        group("--workers", str(WORKERS), **options) as servers,
        asyncio.timeout(HANG_TIMEOUT),
    ):
        port = await admin_port(servers)
        async with (
            callers(await servers.grpc_port(), WORKERS) as connections,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            models = ModelServiceStub(channel)
            listed = (await models.ListModels(pb.ListModelsRequest())).models
            assert [(model.version, model.active) for model in listed] == [("v2", False), ("v1", True)]

            async def is_served_by_all() -> bool:
                request = ranking_pb2.RankRequest(user_id=TRAINED_USERS[0], post_ids=[100])
                replies = [await caller.stub.Rank(request) for caller in connections]
                return {reply.model_version for reply in replies} == {"v2"}

            async with (
                ledger.load(connections[0].stub, workers=1),
                ledger.load(connections[-1].stub, workers=1),
            ):
                await ledger.more(20)
                await models.ActivateModel(pb.ActivateModelRequest(version="v2"))
                await until(is_served_by_all, INTERVAL)
                await ledger.more(20)
    assert ledger.problems() == []
