"""Faults under load: no request fails, and every score belongs to the version that the reply names."""

import asyncio
import os
import urllib.error
from collections.abc import Callable
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import Tensor

from animora_artifact import Artifact
from animora_artifact.network import save_network
from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from animora_server.app import running
from animora_server.settings import ModelSettings
from tests.integration.serving import connected, serving, settings_for, with_options
from tests.support.artifacts import DoublesWithoutEnd, TinyNetwork, tiny_artifact
from tests.support.feed import fill
from tests.support.ledger import Ledger
from tests.support.pages import get, metric
from tests.support.until import HANG_TIMEOUT

NETWORKS = {f"v{seed}": tiny_artifact(f"v{seed}", seed=seed)[1] for seed in range(1, 8)}


@pytest.mark.failure(16)
async def test_models_are_swapped_under_load_and_every_reply_fits_its_version(stub, feed, store):
    ledger = Ledger(feed, NETWORKS)
    async with ledger.load(stub), asyncio.timeout(HANG_TIMEOUT):
        for version in ("v2", "v3", "v4", "v5", "v6", "v7", "v2"):
            if version not in [manifest.version for manifest in store.listing().manifests]:
                store.publish(tiny_artifact(version, seed=int(version[1]))[0])
            ledger.versions.clear()
            store.activate(version)
            await ledger.until_version(version)
            await ledger.more(50)
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}


@pytest.mark.failure(17)
async def test_a_broken_version_is_refused_and_the_old_one_keeps_serving(
    stub, feed, store, application, tmp_path
):
    ledger = Ledger(feed, NETWORKS)
    async with ledger.load(stub), asyncio.timeout(HANG_TIMEOUT):
        store.publish(tiny_artifact("v2", seed=2)[0])
        model = tmp_path / "models" / "v2" / "model.ts"
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
        store.activate("v2")
        while not await metric(application, "animora_model_rejections_total"):
            await ledger.more(10)
        await ledger.more(50)
    assert set(ledger.versions) == {"v1"}
    assert ledger.outcomes == {"OK": ledger.sent}
    text = await asyncio.to_thread(get, application.probes.port, "/metrics")
    assert 'animora_model_rejections_total{reason="digest"} 1.0' in text


def larger_vocabulary(artifact: Artifact) -> Artifact:
    """A vocabulary with two users more than the tables."""
    users = len(artifact.vocabulary.user_ids) + 3
    dimensions = artifact.manifest.dimensions.model_copy(update={"users": users})
    vocabulary = replace(artifact.vocabulary, user_ids=np.arange(users - 1))
    return replace(
        artifact,
        manifest=artifact.manifest.model_copy(update={"dimensions": dimensions}),
        vocabulary=vocabulary,
    )


def with_golden(**arrays: np.ndarray) -> Callable[[Artifact], Artifact]:
    return lambda artifact: replace(artifact, golden=replace(artifact.golden, **arrays))


class WritesFile(TinyNetwork):
    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        torch.save(user_rows, "written")
        return self.forward(user_rows[segments], post_table[post_index])


def with_network(network: type[TinyNetwork]) -> Callable[[Artifact], Artifact]:
    model = save_network(network(0, image=3, caption=2).eval())
    return lambda artifact: replace(artifact, model=model)


@pytest.mark.failure(17)
@pytest.mark.parametrize("preflight", [True, False], ids=["with preflight", "without"])
async def test_versions_with_valid_digests_and_invalid_content_are_refused(feed, store, settings, preflight):
    settings = with_options(settings, models={"preflight": preflight})
    invalid = {
        "v2": larger_vocabulary,
        "v3": with_golden(post_index=np.full(10, 5)),  # one past its posts
        "v4": with_golden(user_rows=np.array([-1, 3])),
        "v5": with_golden(segments=np.zeros(4, np.int64)),
        "v6": with_golden(probabilities=np.full(10, 0.5, np.float32)),
        "v8": with_network(WritesFile),
    }
    if preflight:  # nothing limits its memory without preflight
        invalid["v9"] = with_network(DoublesWithoutEnd)
    ledger = Ledger(feed, NETWORKS)
    async with serving(settings) as (application, stub), ledger.load(stub):
        await ledger.until_version("v1")
        for number, (version, change) in enumerate(invalid.items(), 1):
            store.publish(change(tiny_artifact(version, seed=int(version[1]))[0]))
            store.activate(version)
            while await metric(application, "animora_model_rejections_total") < number:
                await ledger.more(10)
        assert set(ledger.versions) == {"v1"}
        store.publish(tiny_artifact("v7", seed=7)[0])
        store.activate("v7")
        await ledger.until_version("v7")
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}


@pytest.mark.failure(17)
async def test_a_pipe_as_active_pointer_is_counted_and_the_next_pointer_is_followed(
    stub, feed, store, application, tmp_path
):
    ledger = Ledger(feed, NETWORKS)
    pointer = tmp_path / "models" / "ACTIVE"
    async with ledger.load(stub), asyncio.timeout(HANG_TIMEOUT):
        pointer.unlink()
        os.mkfifo(pointer)
        errors = await metric(application, "animora_model_store_errors_total")
        while await metric(application, "animora_model_store_errors_total") < errors + 2:
            await ledger.more(10)
        pointer.unlink()
        store.publish(tiny_artifact("v2", seed=2)[0])
        store.activate("v2")
        await ledger.until_version("v2")
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}


@pytest.mark.failure(18)
async def test_a_model_store_that_vanishes_leaves_the_loaded_version_serving(
    stub, feed, application, tmp_path
):
    (tmp_path / "models").rename(tmp_path / "gone")
    ledger = Ledger(feed, NETWORKS)
    async with ledger.load(stub), asyncio.timeout(HANG_TIMEOUT):
        await ledger.more(100)
    assert ledger.outcomes == {"OK": ledger.sent}


@pytest.mark.failure(24)
async def test_calls_are_unavailable_once_blocks_are_too_old(redis_url, store, tmp_path, embedded_postgres):
    postgres = await embedded_postgres()
    await fill(postgres.url)
    settings = settings_for(postgres.url, redis_url, tmp_path / "models", catalog={"max_block_age": 5.0})
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.grpc.port}") as channel:
            stub, health = RankingServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            watch = aiter(health.Watch(health_pb2.HealthCheckRequest()))
            assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
            await postgres.stop()
            assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.Rank(pb.RankRequest(user_id=7, post_ids=[100]))
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            await postgres.start()
            assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
            assert (await stub.Rank(pb.RankRequest(user_id=7, post_ids=[100]))).post_ids == [100]


@pytest.mark.failure(24)
async def test_a_server_started_before_its_database_serves_once_it_is_up(
    redis_url, store, tmp_path, embedded_postgres
):
    postgres = await embedded_postgres()
    await fill(postgres.url)
    await postgres.stop()
    settings = settings_for(postgres.url, redis_url, tmp_path / "models")
    async with asyncio.timeout(HANG_TIMEOUT), running(settings) as application:
        listening = asyncio.create_task(application.listen())
        with pytest.raises(urllib.error.HTTPError, match="503"):
            await asyncio.to_thread(get, application.probes.port, "/readyz")
        assert not application.grpc.port
        await postgres.start()
        await listening
        async with connected(application) as stub:
            assert (await stub.Rank(pb.RankRequest(user_id=7, post_ids=[100]))).post_ids == [100]


@pytest.mark.failure(19)
async def test_without_a_model_the_heuristic_answers_with_a_degraded_reason(feed, redis_url, tmp_path):
    settings = settings_for(feed.url, redis_url, tmp_path / "empty", models={"ready_requires_model": False})
    async with serving(settings) as (_, stub):
        response = await stub.Rank(pb.RankRequest(user_id=7, post_ids=[100, 200]))
    assert response.ranker == pb.RANKER_HEURISTIC
    assert response.degraded_reason == pb.DEGRADED_REASON_NO_MODEL


async def test_without_a_model_store_the_heuristic_is_not_degraded(feed, redis_url, tmp_path):
    settings = settings_for(feed.url, redis_url, tmp_path).model_copy(update={"models": ModelSettings()})
    async with serving(settings) as (application, stub):
        ranked = await stub.Rank(pb.RankRequest(user_id=7, post_ids=[100, 200], explain=True))
        page = await stub.GetTimeline(pb.GetTimelineRequest(user_id=7))
        again = await stub.GetTimeline(pb.GetTimelineRequest(user_id=7))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Rank(pb.RankRequest(user_id=7, post_ids=[100], model_version="v1"))
        assert await metric(application, "animora_degraded_total") == 0
    for reply in (ranked, page, again):
        assert reply.ranker == pb.RANKER_HEURISTIC
        assert reply.degraded_reason == pb.DEGRADED_REASON_UNSPECIFIED
        assert reply.model_version == ""
    assert page.post_ids
    assert again.cache == pb.CACHE_STATUS_HIT
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
