"""`animora-client rank` and `animora-client health`, as processes against a scripted server."""

import json

import grpc
import pytest
from typer.testing import CliRunner

from animora_client.cli.app import app
from animora_proto.ranking.v1 import ranking_pb2
from tests.client.cli.command import run
from tests.client.scripted_server import answering, bad_request, failing


async def test_rank_prints_a_table_and_its_ranker_model_and_cache_status(server):
    done = await run("rank", "--user", "7", "--posts", "1, 3,2 -4", "--explain", ANIMORA_TARGET=server.target)

    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if line.startswith("│")]
    assert rows[0] == ["│", "1", "│", "3", "│", "0.5000", "│", "+0.500", "│", "-0.250", "│"]
    assert [row[3] for row in rows[:3]] == ["3", "2", "1"]
    assert done.out.splitlines()[-1] == "ranker neucf · model v1 · cache miss · dropped: 1 unknown"


async def test_rank_reads_posts_from_standard_input_and_prints_json(server):
    done = await run(
        *("rank", "--target", server.target, "--user", "0", "--posts-file", "-"),
        *("--limit", "1", "--exclude", "9", "--exclude-seen", "--cache", "bypass", "--model", "v1", "--json"),
        stdin="5 6\n7\n",
    )

    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["posts"] == [{"post_id": 7, "score": 0.5}]
    assert (answer["ranker"], answer["model_version"], answer["cache"]) == ("neucf", "v1", "miss")
    assert answer["degraded_reason"] is None
    assert server.requests == [
        ranking_pb2.RankRequest(
            user_id=0,
            post_ids=[5, 6, 7],
            limit=1,
            cache_policy=ranking_pb2.CACHE_POLICY_BYPASS,
            model_version="v1",
            exclude_seen=True,
            exclude_post_ids=[9],
        )
    ]


async def test_rank_prints_why_each_post_was_dropped(server):
    arguments = ("rank", "--target", server.target, "--user", "7", "--posts", "1,2,-4", "--limit", "1")

    done = await run(*arguments, "--explain")
    as_json = await run(*arguments, "--explain", "--json")

    assert [line.split("│")[1:3] for line in done.out.splitlines() if line.startswith("│")][1:] == [
        ["   -4 ", " not in the catalog             "],
        ["    1 ", " ranked, but not among the best "],
    ]
    assert json.loads(as_json.out)["dropped_posts"] == [
        {"post_id": -4, "reason": "unknown"},
        {"post_id": 1, "reason": "outranked"},
    ]


async def test_rank_prints_the_arm(server):
    server.script = [answering(ranking_pb2.RankResponse(arm="canary", model_version="v2"))] * 2
    arguments = ("rank", "--target", server.target, "--user", "7", "--posts", "1")
    assert "model v2 · arm canary" in (await run(*arguments)).out
    assert json.loads((await run(*arguments, "--json")).out)["arm"] == "canary"


async def test_rank_prints_the_degraded_reason(server):
    response = ranking_pb2.RankResponse(
        ranker=ranking_pb2.RANKER_HEURISTIC,
        cache=ranking_pb2.CACHE_STATUS_BYPASS,
        degraded_reason=ranking_pb2.DEGRADED_REASON_NO_MODEL,
    )
    server.script = [answering(response)]

    done = await run("rank", "--target", server.target, "--user", "7", "--posts", "1")

    assert done.out.splitlines()[-1] == "ranker heuristic · cache bypass · degraded: no_model"


async def test_a_refused_request_exits_with_1_and_names_the_field(server):
    detail = bad_request("post_ids", "must hold 1 to 10,000 ids")
    server.script = [failing(grpc.StatusCode.INVALID_ARGUMENT, "post_ids: must hold 1 to 10,000 ids", detail)]

    done = await run("rank", "--target", server.target, "--user", "7", "--posts", ",")

    assert (done.code, done.out) == (1, "")
    message = "INVALID_ARGUMENT: post_ids: must hold 1 to 10,000 ids (request request-1); correct post_ids"
    assert done.err == f"animora-client: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rank", "--user", "7"), "--posts-file"),
        (("rank", "--user", "7", "--posts", "1,x"), "'x' is not an integer"),
        (("rank", "--user", str(2**63), "--posts", "1"), "does not fit 64 bits"),
        (("rank", "--user", "7", "--posts-file", "/nowhere"), "No such file"),
        (("rank", "--user", "7", "--posts", "1", "--tls-key", __file__), "give both or neither"),
        (("rank", "--user", "7", "--posts", "1", "--timeout", "inf"), "less than or equal to 1000000000"),
        (("timeline", "--user", "7", "--why", "1,x"), "'x' is not an integer"),
        (("timeline", "--user", "7", "--pages", "0"), "greater than or equal to 1"),
        (("bench", "--rate", "5", "--concurrency", "5"), "give one of them"),
        (("bench", "--timeline", "--batch", "2"), "cannot be combined with --batch"),
        (("bench", "--posts", "1-10"), "200 candidates cannot be drawn"),
        (("bench", "--json", "/nowhere/b.json"), "/nowhere"),
    ],
)
def test_wrong_usage_exits_with_2_and_an_explanation(arguments, message):
    done = CliRunner().invoke(app, arguments)

    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.replace("│", " ").split())


async def test_health_exits_with_0_only_if_the_server_is_serving(server, unused_target):
    good = await run("health", "--target", server.target)
    await server.set_health(serving=False)
    bad = await run("health", "--target", server.target, "--json")
    gone = await run("health", "--target", unused_target)

    assert (good.code, good.out.split()[0]) == (0, "SERVING")
    assert bad.code == 1
    assert json.loads(bad.out)["status"] == "not_serving"
    assert gone.code == 1
    assert f"is a server running at {unused_target}?" in gone.err


async def test_rank_sends_its_priority(server):
    done = await run("rank", "--target", server.target, "--user", "7", "--posts", "1", "--priority", "batch")

    assert done.code == 0, done.err
    assert server.metadata[0]["x-animora-priority"] == "batch"
