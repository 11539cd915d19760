"""What Prometheus scrapes: fit for promtool, and counting what happened."""

import asyncio
import shutil
import urllib.error

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.app import running
from tests.support.pages import get
from tests.support.until import HANG_TIMEOUT


@pytest.fixture
async def scraped(stub, application) -> str:
    """The page after one answer of each kind."""
    for user in (7, 500):
        await stub.Rank(pb.RankRequest(user_id=user, post_ids=[100, 100, 2**62]))
    await stub.BatchRank(pb.BatchRankRequest(requests=[pb.RankRequest()]))
    return await asyncio.to_thread(get, application.probes.port, "/metrics")


async def test_rankings_are_counted_by_method_code_and_ranker(scraped):
    for line in (
        'animora_requests_total{code="OK",method="Rank",ranker="neucf"} 1.0',
        'animora_requests_total{code="OK",method="Rank",ranker="heuristic"} 1.0',
        'animora_requests_total{code="INVALID_ARGUMENT",method="BatchRank",ranker="none"} 1.0',
        'animora_dropped_candidates_total{reason="duplicate"} 2.0',
        'animora_model_active{version="v1"} 1.0',
        "animora_catalog_posts 64.0",
    ):
        assert line in scraped.splitlines()


async def test_every_stage_of_a_ranking_is_timed(scraped):
    for stage in ("candidates", "cache", "score", "order"):
        assert f'animora_stage_seconds_count{{stage="{stage}"}}' in scraped


async def test_promtool_accepts_the_metrics(scraped):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    process = await asyncio.create_subprocess_exec(
        *(promtool, "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(scraped.encode())
    assert (process.returncode, output.decode()) == (0, "")


async def test_the_http_probes_follow_health(application):
    assert await asyncio.to_thread(get, application.probes.port, "/livez")
    assert await asyncio.to_thread(get, application.probes.port, "/readyz")
    await application.drain()
    with pytest.raises(urllib.error.HTTPError, match="503"):
        await asyncio.to_thread(get, application.probes.port, "/readyz")


async def test_starting_logs_no_warning(settings):
    with capture_logs() as logs:
        async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
            await application.listen()
    events = [(entry["event"], entry["log_level"]) for entry in logs if "health is" in entry["event"]]
    assert events[-1] == ("health is SERVING", "info")
    assert {level for _, level in events} == {"info"}


async def test_an_ended_background_task_fails_liveness_health_and_metrics(application):
    serving = health_pb2.HealthCheckResponse.SERVING
    with capture_logs() as logs:
        address = f"127.0.0.1:{application.grpc.port}"
        async with asyncio.timeout(HANG_TIMEOUT), grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            alive = aiter(stub.Watch(health_pb2.HealthCheckRequest(service="liveness")))
            ready = aiter(stub.Watch(health_pb2.HealthCheckRequest()))
            assert (await anext(alive)).status == (await anext(ready)).status == serving
            (batcher,) = (task for task in asyncio.all_tasks() if task.get_name() == "batcher")
            batcher.cancel()
            assert (await anext(alive)).status != serving
            assert (await anext(ready)).status != serving
    with pytest.raises(urllib.error.HTTPError, match="503") as answer:
        await asyncio.to_thread(get, application.probes.port, "/livez")
    assert answer.value.read() == b"background task batcher ended\n"
    page = await asyncio.to_thread(get, application.probes.port, "/metrics")
    assert "animora_serving 0.0" in page
    events = [(entry["event"], entry.get("reason", entry.get("task"))) for entry in logs]
    assert ("background task ended", "batcher") in events
    assert ("health is NOT_SERVING", "background task batcher ended") in events
    assert "warning" in {entry["log_level"] for entry in logs if entry["event"] == "health is NOT_SERVING"}
