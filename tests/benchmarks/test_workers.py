"""The benchmark of workers as a whole, on a small feed and for a few seconds."""

from pathlib import Path

import pytest
from rich.console import Console

from animora_demo import SampleFeed
from tests.benchmarks import h2load
from tests.benchmarks.processes import CORES
from tests.benchmarks.test_serving import TRAFFIC
from tests.benchmarks.workers import PROCESSES, measure, report
from tests.support.artifacts import active_store
from tests.support.feed import fill


@pytest.mark.skipif(CORES == 1, reason="one core is for one process")
@pytest.mark.skipif(not h2load.installed(), reason="h2load is not installed (Debian's nghttp2-client)")
async def test_all_sides_are_measured_with_every_reply_checked(postgres_url, redis_url, tmp_path: Path):
    await fill(postgres_url)
    active_store(tmp_path / "models")
    out = Console(record=True, width=110)
    feed = SampleFeed(postgres_url, redis_url, tmp_path / "models")
    sides = await measure(out, feed, TRAFFIC, rounds=1, seconds=1)
    figures = report(out, sides)
    assert list(sides) == list(PROCESSES)
    assert all(
        turn.throughput > 0 and turn.cpu > 0 for side in sides.values() for turn in (side.full, side.steady)
    )
    assert figures["cpu_over_one_process"] > 0
    assert figures["pinned_cpu_over_one_process"] > 0
