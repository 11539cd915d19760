import asyncio
import json
import signal
from io import StringIO

import pytest
import redis.asyncio
from rich.console import Console
from structlog.testing import capture_logs

from animora_server.errors import ConfigurationError
from animora_server.precompute.command import precompute, run_in_redis
from animora_server.precompute.job import RunOptions
from animora_server.precompute.shard import Shard
from tests.precompute.watch import Watch
from tests.support.until import HANG_TIMEOUT


@pytest.fixture
def redis_settings(settings, redis_url):
    return with_url(settings, "cache", redis_url)


def with_url(settings, section, url):
    """The settings with another database or Redis."""
    changed = getattr(settings, section).model_validate({"url": url})
    return settings.model_copy(update={section: changed})


class Terminal:
    """A terminal or a file that records the output."""

    def __init__(self):
        self._texts = StringIO(), StringIO()
        self.out, self.err = (Console(file=text, width=200) for text in self._texts)

    @property
    def shown(self):
        return self._texts[0].getvalue()

    @property
    def complaints(self):
        return self._texts[1].getvalue()


@pytest.fixture
def terminal():
    return Terminal()


async def test_a_run_ends_with_a_table_and_status_0(redis_settings, terminal):
    assert await precompute(redis_settings, RunOptions(), terminal.out, terminal.err) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in terminal.shown.splitlines()]
    table = {row[0]: row[1] for row in rows if row}
    assert table["state"] == "new; current now"
    assert table["model"] == "v1"
    assert table["shard"] == "0/1"
    assert table["users ranked by NeuCF"] == "3"
    assert table["users ranked by the heuristic"] == "5"
    assert int(table["bytes of timelines"].replace(",", "")) > 8 * 12 * 40
    assert terminal.complaints == ""  # no bar where there is no terminal


async def test_the_table_shows_missing_shards_and_a_resumed_run(redis_settings, terminal):
    await precompute(redis_settings, RunOptions(Shard(0, 2)), terminal.out, terminal.err)
    assert "new; unfinished: other shards are to come" in terminal.shown
    await precompute(redis_settings, RunOptions(Shard(1, 2)), terminal.out, terminal.err)
    assert "resumed; current now" in terminal.shown


async def test_in_a_narrow_terminal_no_number_is_cut(redis_settings, terminal):
    terminal.out = Console(file=terminal.out.file, width=24, soft_wrap=True)
    assert await precompute(redis_settings, RunOptions(), terminal.out, terminal.err) == 0
    assert "…" not in terminal.shown


async def test_without_a_terminal_the_log_shows_the_progress(redis_settings, terminal):
    with capture_logs() as logs:
        await precompute(redis_settings, RunOptions(), terminal.out, terminal.err)
    assert [(line["users"], line["of"]) for line in logs if line["event"] == "ranking"] == [(8, 8)]


async def test_a_run_whose_generation_is_abandoned_exits_with_status_1(redis_settings, redis_url, terminal):
    async with redis.asyncio.from_url(redis_url) as client, asyncio.timeout(HANG_TIMEOUT):
        running = asyncio.create_task(
            precompute(redis_settings, RunOptions(rate=100), terminal.out, terminal.err)
        )
        while not await client.delete("animora:{generation}:building"):
            assert not running.done()
        assert await running == 1
    assert "not being built any more" in terminal.complaints
    assert "to resume" not in terminal.complaints


async def test_on_a_terminal_a_bar_shows_the_progress(redis_settings, terminal):
    text = StringIO()
    bar = Console(file=text, width=120, force_terminal=True)
    await precompute(redis_settings, RunOptions(), terminal.out, bar)
    assert "8/8" in text.getvalue()


@pytest.mark.parametrize(
    ("section", "url", "named"),
    [
        ("database", "postgresql:///nothing?host=/nowhere", "FileNotFoundError"),
        ("cache", "unix:///nowhere/redis.sock", "Redis"),
    ],
)
async def test_an_unreachable_service_is_one_line_and_status_1(redis_settings, terminal, section, url, named):
    settings = with_url(redis_settings, section, url)
    assert await precompute(settings, RunOptions(), terminal.out, terminal.err) == 1
    assert named in terminal.complaints
    assert "run the same command to resume" in terminal.complaints
    assert "Traceback" not in terminal.complaints


async def test_a_damaged_model_is_status_1(redis_settings, terminal, tmp_path):
    (tmp_path / "models/v1/model.ts").write_bytes(b"damaged")
    assert await precompute(redis_settings, RunOptions(), terminal.out, terminal.err) == 1
    assert "model.ts" in terminal.complaints


async def test_options_that_do_not_fit_raise_a_configuration_error(redis_settings, terminal):
    with pytest.raises(ConfigurationError):
        await precompute(redis_settings, RunOptions(Shard(1, 2), restart=True), terminal.out, terminal.err)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_the_run_and_the_same_command_resumes_it(
    redis_settings, redis_url, terminal, number
):
    never_done = RunOptions(rate=0.001)
    async with asyncio.timeout(HANG_TIMEOUT), redis.asyncio.from_url(redis_url) as client:
        running = asyncio.create_task(precompute(redis_settings, never_done, terminal.out, terminal.err))
        while (record := await client.get("animora:{generation}:building")) is None:
            assert not running.done()
        signal.raise_signal(number)
        assert await running == 128 + number
    assert f"stopped by {number.name}" in terminal.complaints
    resumed = await run_in_redis(redis_settings, RunOptions(), Watch())
    assert resumed.resumed
    assert resumed.generation.generation_id.hex() == json.loads(record)["generation_id"]


async def test_a_signal_after_the_swap_exits_with_status_0(redis_settings, redis_url, terminal):
    first = await run_in_redis(redis_settings, RunOptions(), Watch())
    # Retiring this many timelines takes a while.
    listed = f"animora:list:{first.generation.generation_id.hex()}:".encode()
    fill = "for n = 1, 100000 do redis.call('SET', ARGV[1] .. n, '', 'EX', 1000) end"
    async with asyncio.timeout(HANG_TIMEOUT), redis.asyncio.from_url(redis_url) as client:
        await client.eval(fill, 0, listed)
        before = await client.get("animora:{generation}:current")
        running = asyncio.create_task(precompute(redis_settings, RunOptions(), terminal.out, terminal.err))
        while await client.get("animora:{generation}:current") == before:
            assert not running.done()
        await client.client_pause(60_000, all=False)
        signal.raise_signal(signal.SIGTERM)
        assert await running == 0
        await client.client_unpause()
    assert "stopped by SIGTERM; the new generation is current" in terminal.complaints
    assert "to resume" not in terminal.complaints
