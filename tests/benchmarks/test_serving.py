"""The serving benchmark as a whole, on a small feed and for a few seconds."""

from pathlib import Path

import pytest
from rich.console import Console

from animora_demo import SampleFeed
from tests.benchmarks import h2load
from tests.benchmarks.serving import Traffic, measure, report
from tests.support.artifacts import active_store
from tests.support.feed import NEW_POSTS, TRAINED_USERS, fill

TRAFFIC = Traffic(
    (min(TRAINED_USERS), max(TRAINED_USERS)), (min(NEW_POSTS), max(NEW_POSTS)), candidates=20, limit=5
)


@pytest.mark.parametrize("generator", ["h2load", "animora-client bench"])
async def test_all_sides_are_measured_with_every_reply_checked(
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
    # A rate that a machine keeps up with that is busy with other things as well.
    sides = await measure(out, feed, TRAFFIC, rounds=1, seconds=1, share=0.02)
    figures = report(out, TRAFFIC, sides)
    assert list(sides) == ["computed", "cache hit", "bare"]
    assert all(turn.throughput > 0 for side in sides.values() for turn in (side.full, side.half))
    assert figures.keys() >= {"unary_over_bare", "hit_over_bare", "p99_at_half_over_bare", "cpu_us_per_rank"}
    assert figures["generator"] == generator
    assert "cache hit" in out.export_text()
