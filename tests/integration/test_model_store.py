"""From `animora-train publish` into S3 to what a whole server answers, under load and with S3 failing."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from typer.testing import CliRunner

from animora_artifact import write_artifact
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from animora_server.app import Application, running
from animora_server.errors import ConfigurationError
from animora_server.settings import Settings
from animora_training.commands.cli import app
from tests.support.artifacts import tiny_artifact
from tests.support.feed import Feed
from tests.support.ledger import Ledger
from tests.support.pages import get
from tests.support.processes import listening_port, start
from tests.support.s3_server import S3Prefix
from tests.support.signing_keys import KeyPair, write_keys
from tests.support.until import HANG_TIMEOUT

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub

VERSIONS = ("v1", "v2", "v3")
NETWORKS = {version: tiny_artifact(version, seed=int(version[1]))[1] for version in VERSIONS}
Train = Callable[..., Any]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folders of all versions, as `fit --output` writes them."""
    for version in VERSIONS:
        write_artifact(tiny_artifact(version, seed=int(version[1]))[0], tmp_path / "made" / version)
    return tmp_path / "made"


@pytest.fixture
def train(s3: S3Prefix) -> Train:
    """Runs `animora-train` with the store in S3; gives what it printed."""

    async def run(*arguments: object, code: int = 0) -> str:
        words = [*map(str, arguments), "--store", s3.url]
        result = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert result.exit_code == code, result.output
        return result.output

    return run


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return write_keys(tmp_path / "keys")


@asynccontextmanager
async def serving(feed: Feed, **models: object) -> AsyncIterator[tuple[Application, Ledger]]:
    """A server under load whose replies are all checked; none may fail."""
    settings = Settings.model_validate(
        {
            "grpc": {"port": 0, "drain_delay": 0.0, "drain_grace": 2.0},
            "http": {"port": 0},
            "database": {"url": feed.url},
            "models": {"poll_interval": 0.05, "preflight": False, "ready_requires_model": True, **models},
            "scorer": {"device": "cpu"},
        }
    )
    ledger = Ledger(feed, NETWORKS)
    async with running(settings) as application, asyncio.timeout(HANG_TIMEOUT):
        await application.listen()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.grpc.port}") as channel:
            stub: RankingServiceAsyncStub = RankingServiceStub(channel)
            async with ledger.load(stub):
                yield application, ledger
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}


async def scrape(application: Application) -> list[str]:
    page = await asyncio.to_thread(get, application.probes.port, "/metrics")
    return page.splitlines()


async def counts(application: Application, ledger: Ledger, counter: str) -> None:
    """Returns once a counter is above 0."""
    while not any(
        line.startswith(f"{counter} ") and not line.endswith(" 0.0") for line in await scrape(application)
    ):
        await ledger.more(10)


async def test_a_server_follows_what_is_published_activated_and_rolled_back(feed, s3, train, made):
    await train("publish", made / "v1")
    await train("activate", "v1")
    async with serving(feed, store=s3.url) as (_, ledger):
        await ledger.until_version("v1")
        await train("publish", made / "v2")
        await train("activate", "v2", "--expected", "v1")
        await ledger.until_version("v2")
        await train("publish", made / "v3")
        refused = await train("activate", "v3", "--expected", "v1", code=1)
        assert "someone else was first: v2 is active" in refused
        assert "rolled back from v2 to v1" in await train("rollback")
        ledger.versions.clear()
        await ledger.until_version("v1")
        await ledger.more(20)
    assert "v3" not in ledger.versions


@pytest.mark.failure(17)
async def test_a_version_that_is_half_written_is_not_served_until_it_is_whole(feed, s3, train, made):
    await train("publish", made / "v1")
    await train("activate", "v1")
    await train("publish", made / "v2")
    manifest = s3.get("v2/manifest.json")
    s3.delete("v2/manifest.json")
    async with serving(feed, store=s3.url) as (application, ledger):
        await ledger.until_version("v1")
        s3.put("ACTIVE", b"v2\nv1\n")  # by hand: the command refuses to
        await counts(application, ledger, 'animora_model_rejections_total{reason="not_found"}')
        s3.put("v2/manifest.json", manifest)
        await ledger.until_version("v2")


@pytest.mark.failure(17)
async def test_a_server_with_a_key_refuses_what_is_not_signed_with_it(feed, s3, train, made, keys, tmp_path):
    other = write_keys(tmp_path / "other")
    await train("publish", made / "v1", "--sign-key", keys.private)
    await train("publish", made / "v2")
    await train("publish", made / "v3", "--sign-key", other.private)
    await train("activate", "v1", "--sign-key", keys.private)
    async with serving(feed, store=s3.url, verify_key=keys.public) as (application, ledger):
        await ledger.until_version("v1")
        for version, refusals in (("v2", 1), ("v3", 2)):
            await train("activate", version, "--sign-key", keys.private)
            expected = f'animora_model_rejections_total{{reason="signature"}} {refusals}.0'
            while expected not in await scrape(application):
                await ledger.more(10)
        s3.put("ACTIVE", b"v1\n")  # by someone without the key
        await counts(application, ledger, 'animora_model_active_refusals_total{reason="signature"}')
        await ledger.more(20)
    assert set(ledger.versions) == {"v1"}


@pytest.mark.failure(18)
async def test_a_server_keeps_serving_while_s3_is_frozen_and_catches_up_after(
    feed, s3, shared_s3, train, made, frozen
):
    for version in ("v1", "v2"):
        await train("publish", made / version)
    await train("activate", "v1")
    async with serving(feed, store=s3.url_with(timeout=0.3)) as (application, ledger):
        await ledger.until_version("v1")
        with frozen(shared_s3.process.pid):
            await counts(application, ledger, "animora_model_store_errors_total")
            await ledger.more(50)
        assert set(ledger.versions) == {"v1"}
        await train("activate", "v2")
        await ledger.until_version("v2")


async def test_a_signal_ends_a_server_while_s3_is_frozen(feed, s3, shared_s3, frozen):
    with frozen(shared_s3.process.pid):
        server = await start(
            "serve",
            DATABASE_URL=feed.url,
            MODELS_STORE=s3.url_with(timeout=3600),
            GRPC_PORT="0",
            GRPC_DRAIN_DELAY="0",
            HTTP_PORT="0",
            SCORER_DEVICE="cpu",
        )
        async with asyncio.timeout(HANG_TIMEOUT):  # far less than the store may take
            await listening_port(server)
            server.send_signal(signal.SIGTERM)
            assert await server.wait() == 0


@pytest.mark.parametrize(
    ("models", "named"),
    [
        (
            {"ready_requires_model": True},
            "models.ready_requires_model needs a model to load: set models.store",
        ),
        ({"store": "ftp://host"}, "models.store: ftp: is not supported"),
        ({"store": "s3://bucket?secret=1"}, "models.store: 'secret'"),
        ({"store": "models", "verify_key": "none.pem"}, "models.verify_key: none.pem: cannot be read"),
    ],
)
async def test_a_store_that_cannot_be_opened_stops_the_start_and_names_the_option(feed, models, named):
    with pytest.raises(ConfigurationError, match=named):
        async with serving(feed, **models):
            pass
