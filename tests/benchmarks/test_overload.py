"""The overload benchmark as a whole, on a small feed and for a few seconds, and its figures."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from animora_demo import SampleFeed
from tests.benchmarks import h2load
from tests.benchmarks.http2_connection import Outcome
from tests.benchmarks.open_loop import Outcomes
from tests.benchmarks.overload import Course, Side, Turn, as_table, draw, judge, measure, summary
from tests.benchmarks.serving import Traffic
from tests.support.artifacts import active_store
from tests.support.feed import NEW_POSTS, TRAINED_USERS, fill

TRAFFIC = Traffic(
    (min(TRAINED_USERS), max(TRAINED_USERS)), (min(NEW_POSTS), max(NEW_POSTS)), candidates=20, limit=5
)


async def test_every_call_of_an_open_loop_has_one_outcome(postgres_url, redis_url, tmp_path: Path):
    if not h2load.installed():
        pytest.skip("h2load is not installed (Debian's package nghttp2-client has it)")
    await fill(postgres_url)
    active_store(tmp_path / "models")
    feed = SampleFeed(postgres_url, redis_url, tmp_path / "models")
    sides = [Side(2, is_throttled=False), Side(20, is_throttled=True)]
    course = Course((0.1, 2.0), rounds=1, closed=1, start=0.2, overload=0.5, after=0.5)
    results = await measure(Console(quiet=True), feed, TRAFFIC, sides, course)
    for turns in results.values():
        for turn in turns.values():
            assert sum(turn.outcomes.values()) == pytest.approx(1, abs=1e-3)
            assert not {"unfinished", "lost"} & turn.outcomes.keys()
        assert turns[0.1].outcomes.get("answered", 0) > 0
    draw(results, tmp_path / "overload.png")
    out = Console(record=True, width=150)
    out.print(as_table(results))
    assert "20 connections, shipped client" in out.export_text()
    assert (tmp_path / "overload.png").stat().st_size > 0


def test_only_answers_to_calls_of_the_measured_time_count():
    due = np.array([0.5, 1.5, 2.0, 3.9, 4.5, 5.0])
    outcome = np.array(
        [
            Outcome.ANSWERED,
            Outcome.ANSWERED,
            Outcome.REFUSED,
            Outcome.ANSWERED,
            Outcome.EXPIRED,
            Outcome.ANSWERED,
        ],
        np.uint8,
    )
    turn = judge(Outcomes(due, due + 0.1, outcome, 0.0), capacity=1.0, course=Course())
    assert turn.goodput == pytest.approx(2 / 3)
    assert turn.p99_ms == pytest.approx(100)
    assert turn.recovery_s == pytest.approx(0.5)
    assert turn.outcomes == {"answered": pytest.approx(2 / 3), "refused": pytest.approx(1 / 3)}


def test_the_worse_number_of_connections_is_reported():
    def turn(goodput: float, recovery: float) -> Turn:
        return Turn(goodput, 10.0, recovery)

    figures = summary(
        {
            Side(8, is_throttled=False): {1.0: turn(1.0, 0), 2.0: turn(0.9, 0.1), 10.0: turn(0.5, 0.2)},
            Side(300, is_throttled=False): {1.0: turn(0.8, 0), 2.0: turn(0.4, 1.5), 10.0: turn(0.6, 0.2)},
        }
    )
    assert figures == {"goodput_2x": 0.5, "goodput_10x": 0.5, "recovery_s": 1.5}
