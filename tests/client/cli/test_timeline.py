"""`animora-client timeline`, as a process against a scripted server."""

import json

import grpc
import pytest

from animora_proto.ranking.v1 import ranking_pb2
from tests.client.cli.command import run
from tests.client.scripted_server import EXPLANATION, answering, failing, snapshot_gone


def rows(output):
    """The cells of all tables, without headings."""
    lines = (line.split("│")[1:-1] for line in output.splitlines() if line.startswith("│"))
    return [[cell.strip() for cell in line] for line in lines]


def explained(**fields):
    explanation = ranking_pb2.Explanation(terms=EXPLANATION.terms, **fields)
    return answering(ranking_pb2.GetTimelineResponse(post_ids=[1], scores=[0.5], explanations=[explanation]))


async def test_the_first_page_is_printed_with_its_source_and_the_next_token(server):
    done = await run("timeline", "--user", "7", ANIMORA_TARGET=server.target)

    assert done.code == 0, done.err
    assert rows(done.out)[:2] == [["1", "12", "0.5000"], ["2", "11", "0.3333"]]
    assert done.out.splitlines()[-2:] == [
        "ranker neucf · model v1 · cache hit",
        "continue with --page-token 5",
    ]

    following = await run("timeline", "--user", "7", "--page-token", "5", ANIMORA_TARGET=server.target)

    assert [row[1] for row in rows(following.out)] == ["7", "6", "5", "4", "3"]
    assert following.out.splitlines()[-2] == "ranker neucf · model v1 · cache stale"


async def test_several_pages_are_numbered_continuously(server):
    done = await run("timeline", "--target", server.target, "--user", "7", "--pages", "9")

    assert [row[:2] for row in rows(done.out)] == [[str(n), str(13 - n)] for n in range(1, 13)]
    assert done.out.splitlines()[-1] == "end of the timeline"
    assert len(server.timeline_requests) == 3


async def test_a_limit_is_read_over_several_pages(server):
    done = await run(
        *("timeline", "--target", server.target, "--user", "7", "--limit", "7", "--page-size", "5"),
        *("--include-seen", "--exclude", "12,11", "--cache", "refresh"),
    )

    assert [row[1] for row in rows(done.out)] == ["10", "9", "8", "7", "6", "5", "4"]
    assert server.timeline_requests == [
        ranking_pb2.GetTimelineRequest(
            user_id=7,
            page_size=page_size,
            page_token=token,
            exclude_post_ids=[12, 11],
            include_seen=True,
            cache_policy=ranking_pb2.CACHE_POLICY_REFRESH,
        )
        for page_size, token in [(5, ""), (2, "7")]
    ]


async def test_the_models_eight_terms_have_a_column_each_in_100_characters(server):
    server.script = [explained()]

    done = await run("timeline", "--target", server.target, "--user", "7", "--explain", COLUMNS="100")

    terms = ["+0.500", "+0.250", "-0.125", "+1.500", "-0.750", "+0.000", "+0.062", "-2.500"]
    assert rows(done.out) == [["1", "1", "0.5000", *terms]]


async def test_terms_that_do_not_fit_are_named_one_by_one(server):
    server.script = [explained(reranking_terms=EXPLANATION.reranking_terms, exploration=True)]

    done = await run("timeline", "--target", server.target, "--user", "7", "--explain", COLUMNS="80")

    assert max(map(len, done.out.splitlines())) <= 80
    assert [row[1] for row in rows(done.out)][:2] == ["1", ""], "a post begins with its first line"
    terms = " ".join(row[3] for row in rows(done.out)).split()
    assert terms[:2] == ["gmf_id=+0.500", "gmf_image=+0.250"]
    assert terms[7:] == [
        "bias=-2.500",
        "rerank:relevance=+0.750",
        "rerank:author_diversity=-0.250",
        "exploration=yes",
    ]


async def test_a_terminal_that_is_too_narrow_for_anything_is_no_error(server):
    done = await run("timeline", "--target", server.target, "--user", "7", COLUMNS="15")

    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "continue with --page-token 5"


async def test_in_a_narrow_terminal_no_number_is_cut(server):
    server.script = [explained()]

    done = await run("timeline", "--target", server.target, "--user", "7", "--explain", COLUMNS="28")

    assert "…" not in done.out


async def test_an_older_server_without_timelines_is_reported_as_outdated(server):
    server.script = [failing(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")]

    done = await run("timeline", "--target", server.target, "--user", "7")

    assert (done.code, done.out) == (1, "")
    assert f"the server at {server.target} does not support this call: update it" in done.err


async def test_missing_explain_terms_are_reported(server):
    server.script = [answering(ranking_pb2.GetTimelineResponse(post_ids=[1], scores=[0.5]))]

    done = await run("timeline", "--target", server.target, "--user", "7", "--explain")

    assert "no terms: the server no longer has the model that ranked this timeline" in done.out


async def test_why_prints_drop_reasons_in_words(server):
    done = await run("timeline", "--target", server.target, "--user", "7", "--why", "99, 12", "--pages", "2")

    assert rows(done.out)[5:7] == [
        ["99", "its author has blocked the user, or is blocked by them"],
        ["12", "it is in the timeline"],
    ]
    assert done.out.count("99") == 1, "once, not on every page"


async def test_json_output_has_one_object_per_page(server):
    done = await run(
        *("timeline", "--target", server.target, "--user", "7", "--pages", "2", "--json"),
        *("--explain", "--why", "99"),
        COLUMNS="20",
    )

    first, second = map(json.loads, done.out.splitlines())
    assert [post["post_id"] for post in first["posts"]] == [12, 11, 10, 9, 8]
    assert first["posts"][0]["terms"]["bias"] == -2.5
    assert first["posts"][0]["reranking_terms"] == {"relevance": 0.75, "author_diversity": -0.25}
    assert first["posts"][0]["exploration"] is True
    assert first["dropped_posts"] == [{"post_id": 99, "reason": "blocked"}]
    assert (first["cache"], first["next_page_token"], second["next_page_token"]) == ("hit", "5", "10")


@pytest.mark.parametrize("token", [(), ("--page-token", "5")])
async def test_a_lost_timeline_exits_with_1(server, token):
    server.script = [snapshot_gone()]

    done = await run("timeline", "--target", server.target, "--user", "7", *token)

    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("(request request-1); start over without --page-token\n")
