"""`animora-client bench` as a process: what it prints, writes and draws."""

import json

import grpc
import numpy as np
from matplotlib.image import imread

from animora_proto.ranking.v1 import ranking_pb2
from tests.client.cli.command import finish, interrupt, run, start
from tests.client.scripted_server import answering, failing

SHORT = ("--duration", "0.4", "--warmup", "0.1", "--posts", "1-50", "--candidates", "10")


async def test_a_closed_loop_reports_numbers_and_a_picture(server, tmp_path):
    numbers, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    done = await run(
        *("bench", "--target", server.target, *SHORT, "--concurrency", "4", "--connections", "2"),
        *("--users", "1-9", "--json", numbers, "--plot", picture),
    )

    assert done.code == 0, done.err
    report = json.loads(numbers.read_text())
    assert report["ok"] == report["calls"] > 0
    assert report["failed"] == 0
    assert report["calls_per_second"] > 0
    assert list(report["latency_seconds"]) == ["p50", "p90", "p99", "p99.9", "max"]
    assert list(report["latency_seconds"].values()) == sorted(report["latency_seconds"].values())
    assert report["rankers"] == {"neucf": report["ok"]}
    assert report["model_versions"] == {"v1": report["ok"]}
    assert report["options"]["concurrency"] == 4
    assert f"{report['ok']:,} ok, 0 failed" in done.out
    assert {request.user_id for request in server.requests} <= set(range(1, 10))
    assert {len(request.post_ids) for request in server.requests} == {10}
    assert len({metadata["user-agent"] for metadata in server.metadata}) == 1

    pixels = imread(picture)
    assert pixels.shape[:2] == (1200, 1080)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50, "more than an empty page"


async def test_an_open_loop_sends_batches_at_its_rate(server, tmp_path):
    numbers = tmp_path / "bench.json"
    done = await run(
        *("bench", "--target", server.target, *SHORT, "--rate", "100", "--arrivals", "constant"),
        *("--batch", "3", "--cache", "default", "--priority", "batch", "--json", numbers),
    )

    assert done.code == 0, done.err
    report = json.loads(numbers.read_text())
    assert report["calls"] == 40  # of 100 a second in 0.4 s
    assert report["caches"] == {"miss": 120}
    assert {request.cache_policy for request in server.requests} == {ranking_pb2.CACHE_POLICY_DEFAULT}
    assert {metadata["x-animora-priority"] for metadata in server.metadata} == {"batch"}
    assert report["options"]["priority"] == "batch"


async def test_timeline_bench_requests_first_pages_and_checks_them(server, tmp_path):
    numbers = tmp_path / "bench.json"
    server.script = [answering(ranking_pb2.GetTimelineResponse(post_ids=[1, 1], scores=[0.5, 0.5]))]
    done = await run(
        *("bench", "--target", server.target, "--timeline", "--users", "1-9", "--limit", "4"),
        *("--cache", "default", "--warmup", "0", "--max-calls", "18", "--json", numbers),
    )

    assert done.code == 1
    assert done.out.startswith("GetTimeline: 4 posts, 9 users, 16 callers")
    report = json.loads(numbers.read_text())
    assert report["failures"] == {"wrong reply: a post twice": 1}
    assert (report["ok"], report["caches"]) == (17, {"hit": 17})
    users = [request.user_id for request in server.timeline_requests]
    assert sorted(users) == sorted([*range(1, 10)] * 2)
    assert {request.page_size for request in server.timeline_requests} == {4}


async def test_failed_and_wrong_replies_are_counted_by_kind_and_exit_with_1(server, tmp_path):
    numbers = tmp_path / "bench.json"
    server.script = [
        failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls in flight"),
        answering(ranking_pb2.RankResponse(post_ids=[99], scores=[0.5])),
    ] * 2
    done = await run(
        *("bench", "--target", server.target, *SHORT, "--warmup", "0", "--concurrency", "1"),
        *("--max-calls", "10", "--json", numbers),
    )

    assert done.code == 1
    report = json.loads(numbers.read_text())
    assert (report["ok"], report["failed"]) == (6, 4)
    assert report["failures"] == {
        "RESOURCE_EXHAUSTED": 2,
        "wrong reply: posts are missing or too many": 2,
    }
    assert "2 RESOURCE_EXHAUSTED" in done.out


async def test_ctrl_c_prints_the_measurements_so_far(server):
    process = await start(*("bench", "--target", server.target, *SHORT, "--duration", "600", "--warmup", "0"))
    await server.received(calls=50)
    interrupt(process)
    done = await finish(process)

    assert done.code == 0, done.err
    assert "interrupted" in done.err
    assert " ok, 0 failed" in done.out


async def test_an_unreachable_target_is_named(unused_target):
    done = await run("bench", "--target", unused_target, *SHORT, "--timeout", "0.5")

    assert done.code == 1
    assert f"is a server running at {unused_target}?" in done.err
