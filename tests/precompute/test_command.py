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
from tests.precompute.fakes import ProgressRecorder
from tests.support.until import HANG_TIMEOUT

FRESH = RunOptions()


@pytest.fixture
def redis_settings(settings, redis_url):
    return with_url(settings, "cache", redis_url)


def with_url(settings, section, url):
    """The settings with another database or Redis."""
    changed = getattr(settings, section).model_validate({"url": url})
    return settings.model_copy(update={section: changed})


class Command:
    """The command with its output recorded, as in a file."""

    def __init__(self):
        self._texts = StringIO(), StringIO()
        self.out, self.err = (Console(file=text, width=200) for text in self._texts)

    async def run(self, settings, options=FRESH):
        """Runs the command; returns its exit status."""
        return await precompute(settings, options, self.out, self.err)

    @property
    def shown(self):
        return self._texts[0].getvalue()

    @property
    def errors(self):
        return self._texts[1].getvalue()


@pytest.fixture
def command():
    return Command()


async def test_a_run_ends_with_a_table_and_status_0(redis_settings, command):
    assert await command.run(redis_settings) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in command.shown.splitlines()]
    table = {row[0]: row[1] for row in rows if row}
    assert table["state"] == "new; current now"
    assert table["model"] == "v1"
    assert table["shard"] == "0/1"
    assert table["users ranked by NeuCF"] == "3"
    assert table["users ranked by the heuristic"] == "5"
    assert int(table["bytes of timelines"].replace(",", "")) > 8 * 12 * 40
    assert command.errors == ""  # no bar where there is no command


async def test_the_table_shows_missing_shards_and_a_resumed_run(redis_settings, command):
    await command.run(redis_settings, RunOptions(Shard(0, 2)))
    assert "new; unfinished: other shards are to come" in command.shown
    await command.run(redis_settings, RunOptions(Shard(1, 2)))
    assert "resumed; current now" in command.shown


async def test_in_a_narrow_terminal_no_number_is_cut(redis_settings, command):
    command.out = Console(file=command.out.file, width=24, soft_wrap=True)
    assert await command.run(redis_settings) == 0
    assert "…" not in command.shown


async def test_without_a_terminal_the_log_shows_the_progress(redis_settings, command):
    with capture_logs() as logs:
        await command.run(redis_settings)
    assert [(line["users"], line["of"]) for line in logs if line["event"] == "ranking"] == [(8, 8)]


async def test_a_run_whose_generation_is_abandoned_exits_with_status_1(redis_settings, redis_url, command):
    async with redis.asyncio.from_url(redis_url) as client, asyncio.timeout(HANG_TIMEOUT):
        running = asyncio.create_task(command.run(redis_settings, RunOptions(rate=100)))
        while not await client.delete("animora:{generation}:building"):
            assert not running.done()
        assert await running == 1
    assert "not being built any more" in command.errors
    assert "to resume" not in command.errors


async def test_on_a_terminal_a_bar_shows_the_progress(redis_settings, command):
    text = StringIO()
    bar = Console(file=text, width=120, force_terminal=True)
    await precompute(redis_settings, FRESH, command.out, bar)
    assert "8/8" in text.getvalue()


@pytest.mark.parametrize(
    ("section", "url", "named"),
    [
        ("database", "postgresql:///nothing?host=/nowhere", "FileNotFoundError"),
        ("cache", "unix:///nowhere/redis.sock", "Redis"),
    ],
)
async def test_an_unreachable_service_is_one_line_and_status_1(redis_settings, command, section, url, named):
    settings = with_url(redis_settings, section, url)
    assert await command.run(settings) == 1
    assert named in command.errors
    assert "run the same command to resume" in command.errors
    assert "Traceback" not in command.errors


async def test_a_damaged_model_is_status_1(redis_settings, command, tmp_path):
    (tmp_path / "models/v1/model.ts").write_bytes(b"damaged")
    assert await command.run(redis_settings) == 1
    assert "model.ts" in command.errors


async def test_options_that_do_not_fit_raise_a_configuration_error(redis_settings, command):
    with pytest.raises(ConfigurationError):
        await command.run(redis_settings, RunOptions(Shard(1, 2), restart=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_the_run_and_the_same_command_resumes_it(
    redis_settings, redis_url, command, number
):
    never_done = RunOptions(rate=0.001)
    async with asyncio.timeout(HANG_TIMEOUT), redis.asyncio.from_url(redis_url) as client:
        running = asyncio.create_task(command.run(redis_settings, never_done))
        while (record := await client.get("animora:{generation}:building")) is None:
            assert not running.done()
        signal.raise_signal(number)
        assert await running == 128 + number
    assert f"stopped by {number.name}" in command.errors
    resumed = await run_in_redis(redis_settings, FRESH, ProgressRecorder())
    assert resumed.resumed
    assert resumed.generation.generation_id.hex() == json.loads(record)["generation_id"]


async def test_a_signal_after_the_swap_exits_with_status_0(redis_settings, redis_url, command):
    first = await run_in_redis(redis_settings, FRESH, ProgressRecorder())
    # Retiring this many timelines takes a while.
    listed = f"animora:list:{first.generation.generation_id.hex()}:".encode()
    fill = "for n = 1, 100000 do redis.call('SET', ARGV[1] .. n, '', 'EX', 1000) end"
    async with asyncio.timeout(HANG_TIMEOUT), redis.asyncio.from_url(redis_url) as client:
        await client.eval(fill, 0, listed)
        before = await client.get("animora:{generation}:current")
        running = asyncio.create_task(command.run(redis_settings))
        while await client.get("animora:{generation}:current") == before:
            assert not running.done()
        await client.client_pause(60_000, all=False)
        signal.raise_signal(signal.SIGTERM)
        assert await running == 0
        await client.client_unpause()
    assert "stopped by SIGTERM; the new generation is current" in command.errors
    assert "to resume" not in command.errors
