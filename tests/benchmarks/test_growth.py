"""The growth benchmark's curves, at sizes that take seconds."""

import math

import pytest
from rich.console import Console

from tests.benchmarks import h2load
from tests.benchmarks.growth import (
    candidates,
    catalog,
    concurrency,
    databases,
    loading,
    plots,
    users,
    version,
)
from tests.benchmarks.growth.server_load import CANDIDATES, serving

POSTS = CANDIDATES + 50
OUT = Console(quiet=True)


@pytest.fixture
def store(tmp_path):
    version.publish(tmp_path / "models")
    return tmp_path / "models"


def check(points, draw, path):
    """Checks that all figures are finite, and that a picture is drawn."""
    for name in points[0]:
        values = [point[name] for point in points]
        # A value may be 0: a busy machine may answer no call in time.
        assert all(math.isfinite(value) and value >= 0 for value in values), points
        assert max(values) > 0, points
    draw(points, path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("generator", ["h2load", "animora-client bench"])
async def test_goodput_is_measured_for_each_number_of_callers(
    generator, embedded_postgres, store, tmp_path, monkeypatch
):
    if generator != "h2load":
        monkeypatch.setattr(h2load, "installed", lambda: False)
    elif not h2load.installed():
        pytest.skip("h2load is not installed (Debian's package nghttp2-client has it)")
    url = await databases.served(await embedded_postgres(), POSTS)
    async with serving(url, store) as server:
        points = await concurrency.measure(OUT, server, POSTS, (1, 8), rounds=1, seconds=1)
    assert [(point["deadline_s"], point["callers"]) for point in points] == [
        (deadline, callers) for deadline in concurrency.DEADLINES for callers in (1, 8)
    ]
    check(points, plots.concurrency, tmp_path / "concurrency.png")


async def test_calls_of_all_sizes_are_answered_by_the_model(embedded_postgres, store, tmp_path):
    url = await databases.served(await embedded_postgres(), POSTS)
    async with serving(url, store) as server:
        lists = await candidates.measure(OUT, server, POSTS, (3,), rounds=1, seconds=1)
        batches = await users.measure(OUT, server, POSTS, (2,), rounds=1, seconds=1)
    check(lists, plots.candidates, tmp_path / "candidates.png")
    check(batches, plots.users, tmp_path / "users.png")


async def test_catalog_sizes_are_measured_in_turns(embedded_postgres, store, tmp_path):
    points = await catalog.measure(
        OUT, await embedded_postgres(), store, (POSTS, 2 * POSTS), rounds=1, seconds=1
    )
    assert [point["posts"] for point in points] == [POSTS, 2 * POSTS]
    check(points, plots.catalog, tmp_path / "catalog.png")


async def test_loads_are_measured_by_type(embedded_postgres):
    figures = await loading.measure(OUT, await embedded_postgres(), loading.TYPES, posts=20, rounds=1)
    assert list(figures) == list(loading.TYPES)
    assert all(point["posts_per_second"] > 0 and point["sent_per_second"] > 0 for point in figures.values())
