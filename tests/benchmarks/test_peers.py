"""The comparison with other model servers: requests, checks of replies, reports, and our side alone."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import asyncpg
import numpy as np
import pytest
from rich.console import Console

from animora_demo import SampleFeed
from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.benchmarks import h2load
from tests.benchmarks.h2load import Route
from tests.benchmarks.peers import v2
from tests.benchmarks.peers.comparison import Plan, measure
from tests.benchmarks.peers.generator import Exchange
from tests.benchmarks.peers.protocols import ANSWER, V2, BatchRank, Json, Rank, Raw, Wire, WrongReply
from tests.benchmarks.peers.queries import Posts, Query, QuerySampler, users_without_blocks
from tests.benchmarks.peers.ranking import BEST, PostRanker, as_bytes
from tests.benchmarks.peers.report import BATCH_RANK, MOSEC, RANK, Figures, as_table, batch_side, draw, ratios
from tests.benchmarks.peers.servers import PEERS
from tests.benchmarks.processes import Server, process_tree
from tests.benchmarks.results import update
from tests.support.artifacts import active_store, tiny_artifact
from tests.support.feed import fill

CANDIDATES = 20
ROUTE = Route("/", "application/octet-stream")
QUERIES = [
    Query(
        user=user,
        posts=np.arange(100, 100 + CANDIDATES),
        best=np.arange(100 + user, 100 + user + BEST),
        scores=np.linspace(0.9, 0.1, BEST, dtype=np.float32),
    )
    for user in (1, 2)
]


def raw_reply(*queries):
    return b"".join(np.array((query.best, query.scores), ANSWER).tobytes() for query in queries)


def rank_response(query, ranker=pb.RANKER_NEUCF):
    return pb.RankResponse(post_ids=query.best, scores=query.scores, ranker=ranker)


def v2_reply(*queries):
    reply = v2.ModelInferResponse()
    for name in ("scores", "best"):  # by name, in whatever order
        reply.outputs.add(name=name)
        reply.raw_output_contents.append(np.stack([getattr(query, name) for query in queries]).tobytes())
    return reply.SerializeToString()


def swapped(query):
    """The right posts in another order."""
    return replace(query, best=query.best[[1, 0, *range(2, BEST)]])


REPLIES: dict[str, tuple[Wire, Callable[..., bytes]]] = {
    "raw": (Raw(ROUTE), raw_reply),
    "V2": (V2(), v2_reply),
    "BatchRank": (
        BatchRank(),
        lambda *queries: pb.BatchRankResponse(
            results=[pb.RankResult(response=rank_response(query)) for query in queries]
        ).SerializeToString(),
    ),
}


@pytest.mark.parametrize("protocol", REPLIES)
def test_a_reply_needs_the_right_posts_in_the_right_order_with_their_scores(protocol):
    wire, reply = REPLIES[protocol]
    first, second = QUERIES
    exchange = Exchange(wire, QUERIES)
    exchange.check(reply(first, second))
    exchange.check(reply(first, replace(second, scores=np.nextafter(second.scores, np.float32(1)))))
    wrong = {
        "order": reply(first, swapped(second)),
        "users": reply(second, first),
        "too few": reply(first),
        "scores": reply(first, replace(second, scores=second.scores[::-1].copy())),
    }
    for one in wrong.values():
        with pytest.raises(WrongReply):
            exchange.check(one)


def test_a_heuristics_answer_is_wrong_even_with_the_right_posts():
    exchange = Exchange(Rank(), QUERIES[:1])
    exchange.check(rank_response(QUERIES[0]).SerializeToString())
    with pytest.raises(WrongReply, match="NEUCF"):
        exchange.check(rank_response(QUERIES[0], pb.RANKER_HEURISTIC).SerializeToString())


def test_a_failed_request_is_a_wrong_reply():
    failed = pb.RankResult()
    failed.error.message = "no such luck"
    with pytest.raises(WrongReply, match="no such luck"):
        Exchange(BatchRank(), QUERIES[:1]).check(pb.BatchRankResponse(results=[failed]).SerializeToString())


def test_all_protocols_send_the_same_request():
    (query, _) = QUERIES
    raw = np.frombuffer(Raw(ROUTE).message([query]), np.int64)
    assert raw.tolist() == [query.user, *query.posts]
    assert json.loads(Json(ROUTE).message([query])) == {"user": raw[0], "posts": raw[1:].tolist()}
    request = pb.RankRequest.FromString(Rank().message([query]))
    assert [request.user_id, *request.post_ids] == raw.tolist()
    assert (request.limit, request.cache_policy) == (BEST, pb.CACHE_POLICY_BYPASS)
    assert list(pb.BatchRankRequest.FromString(BatchRank().message([query])).requests) == [request]
    tensors = v2.ModelInferRequest.FromString(V2().message([query]))
    assert [list(one.shape) for one in tensors.inputs] == [[1, 1], [1, CANDIDATES]]
    assert b"".join(tensors.raw_input_contents) == raw.tobytes()


async def test_peers_rank_as_the_artifact_itself_does(postgres_url, tmp_path):
    await fill(postgres_url)
    artifact, _ = tiny_artifact("v1", seed=1)
    connection = await asyncpg.connect(postgres_url)
    posts, users = await Posts.read(connection, artifact), await users_without_blocks(connection)
    await connection.close()
    posts.save(artifact, tmp_path)
    queries = list(islice(QuerySampler(artifact, posts, users).queries(CANDIDATES, seed=0), 8))
    assert len({tuple(query.best) for query in queries}) == len(queries)
    answers = PostRanker(tmp_path).rank(
        np.array([query.user for query in queries]),
        np.stack([query.posts for query in queries]),
    )
    Exchange(Raw(ROUTE), queries).check(b"".join(as_bytes(*answers)))


async def test_users_with_blocks_are_left_out(postgres_url):
    await fill(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "insert into animora_app.block_relations (blocker_id, blocked_id) values (7, 1000)"
    )
    users = await users_without_blocks(connection)
    await connection.close()
    assert {8, 9} <= set(users.tolist())
    assert not {7, 1000} & set(users.tolist())


@pytest.mark.parametrize("generator", ["h2load", "our own"])
async def test_a_peer_without_an_environment_is_left_out(
    generator, postgres_url, redis_url, tmp_path: Path, monkeypatch
):
    if generator != "h2load":
        monkeypatch.setattr(h2load, "installed", lambda: False)
    elif not h2load.installed():
        pytest.skip("h2load is not installed (Debian's package nghttp2-client has it)")
    await fill(postgres_url)
    active_store(tmp_path / "models")
    feed = SampleFeed(postgres_url, redis_url, tmp_path / "models")
    out = Console(record=True, width=110)
    nowhere = replace(PEERS[0], name="nowhere", folder="nowhere")
    result = await measure(out, feed, Plan(rounds=1, seconds=1, candidates=CANDIDATES, workers=1), [nowhere])
    assert list(result.sides) == [RANK, BATCH_RANK]
    assert all(side.ranks_per_second > 0 < side.cpu_us_per_rank for side in result.sides.values())
    assert "is not there" in result.left_out["nowhere"]
    assert "nowhere is left out" in out.export_text()


CHILD = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ntime.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


async def test_the_cpu_time_of_a_server_includes_its_childrens():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    server, members = Server("parent", process.pid, 0), process_tree(process.pid)
    try:
        assert len(members) == 2
        assert server.cpu_seconds() >= 0.3
        assert server.is_alive()
    finally:
        for member in members:
            os.kill(member, signal.SIGKILL)
        await process.wait()
    assert not server.is_alive()


def figures(ranks_per_second, users=1):
    return Figures("gRPC", users, 8, ranks_per_second, 100.0, 1.0, 2.0)


def test_ratios_are_batch_rank_over_each_peer_and_over_the_fastest_by_grpc():
    sides = {
        RANK: figures(900.0),
        BATCH_RANK: figures(8000.0, users=32),
        MOSEC: figures(4000.0),
        batch_side(MOSEC): figures(10_000.0, users=32),
        "PyTriton": figures(1000.0),
        "MLServer": figures(500.0),
    }
    assert ratios(sides) == {
        "batch_over_mosec": 2.0,
        "batch_over_mosec_batch": 0.8,
        "batch_over_grpc_peers": 8.0,
    }
    del sides[MOSEC]
    assert ratios(sides).keys() == {"batch_over_mosec_batch", "batch_over_grpc_peers"}


def test_the_table_and_the_picture_have_every_side(tmp_path):
    sides = {RANK: figures(900.0), BATCH_RANK: figures(8000.0, users=32), MOSEC: figures(4000.0)}
    out = Console(record=True, width=80)
    out.print(as_table(sides, "title"))
    rows = out.export_text().splitlines()
    assert [sum(row.strip().startswith(name) for row in rows) for name in sides] == [1, 1, 1]
    assert any(BATCH_RANK in row and "8,000" in row and "2.00" in row for row in rows)
    draw(sides, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_other_benchmarks_are_kept(tmp_path):
    file = tmp_path / "benchmarks" / "serving.json"
    update(file, {"unary_over_bare": 0.5, "generator": "h2load"})
    update(file, {"batch_over_mosec": 2.0})
    update(file, {"unary_over_bare": 0.6})
    assert json.loads(file.read_text()) == {
        "unary_over_bare": 0.6,
        "generator": "h2load",
        "batch_over_mosec": 2.0,
    }
