"""The server as a process: it drains on SIGTERM, and reports wrong options."""

import asyncio
import signal
from collections import Counter

import pytest

from animora_client import AsyncRankingClient, RankingError
from tests.support.feed import TRAINED_USERS
from tests.support.pages import status_of
from tests.support.processes import listening_port, start, unused_port
from tests.support.until import HANG_TIMEOUT, until


@pytest.mark.failure(26)
async def test_sigterm_to_one_of_two_servers_under_load_loses_no_request(feed, redis_url, store, tmp_path):
    servers = [
        await start(
            "serve",
            DATABASE_URL=feed.url,
            CACHE_URL=redis_url,
            MODELS_STORE=str(tmp_path / "models"),
            MODELS_READY_REQUIRES_MODEL="true",
            MODELS_PREFLIGHT="false",
            GRPC_PORT="0",
            GRPC_DRAIN_DELAY="0.2",
            HTTP_PORT="0",
            SCORER_DEVICE="cpu",
        )
        for _ in range(2)
    ]
    outcomes: Counter[str] = Counter()
    drained = asyncio.Event()

    async def work(client: AsyncRankingClient) -> None:
        while not drained.is_set():
            try:
                ranking = await client.rank(TRAINED_USERS[0], [100, 200, 300], timeout=10)
            except RankingError as error:
                outcomes[str(error)] += 1
            else:
                outcomes[str(ranking.ranker)] += 1

    async with asyncio.timeout(HANG_TIMEOUT):
        ports = [await listening_port(server) for server in servers]
        for port in ports:
            async with AsyncRankingClient(f"127.0.0.1:{port}") as client:
                await client.rank(TRAINED_USERS[0], [100], timeout=HANG_TIMEOUT)
        both = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        async with AsyncRankingClient(both) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(8)]
            servers[0].send_signal(signal.SIGTERM)
            assert await servers[0].wait() == 0
            drained.set()
            await asyncio.gather(*workers)
        servers[1].send_signal(signal.SIGTERM)
        assert await servers[1].wait() == 0
    assert set(outcomes) == {"neucf"}


async def test_a_server_whose_database_is_away_refuses_connections_and_ends_at_sigterm(tmp_path):
    database = f"postgresql://animora@127.0.0.1:{unused_port()}/app"
    port, http_port = unused_port(), unused_port()
    server = await start(
        "serve", DATABASE_URL=database, GRPC_PORT=str(port), HTTP_PORT=str(http_port), SCORER_DEVICE="cpu"
    )

    async def is_alive() -> bool:
        return await status_of(http_port, "/livez") == 200

    async with asyncio.timeout(HANG_TIMEOUT):
        await until(is_alive, 0.05)
        assert await status_of(http_port, "/readyz") == 503
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0


async def test_a_missing_database_option_is_reported_in_one_line():
    process = await start("serve")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1
    assert "ANIMORA_DATABASE_URL" in errors.decode()


@pytest.mark.failure(30)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"GRPC_PORT": "banana"}, "ANIMORA_GRPC_PORT"),
        ({"GRPC_HOST": "0.0.0.0"}, "insecure"),
        ({"GRPC_PROT": "1"}, "ANIMORA_GRPC_PROT"),
    ],
)
async def test_a_wrong_option_is_named(options, named):
    process = await start("serve", DATABASE_URL="postgresql://u:hidden@localhost/db", **options)
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert named in errors.decode()
    assert "Traceback" not in errors.decode()
    assert "hidden" not in errors.decode()


async def test_check_config_prints_the_options_in_force_without_secrets():
    process = await start("check-config", DATABASE_URL="postgresql://u:hidden@localhost/db", GRPC_PORT="7000")
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert "7000" in output.decode()
    assert "hidden" not in output.decode()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"GRPC_TLS_CERTIFICATE": "/absent.pem", "GRPC_TLS_KEY": "/absent.key"}, "grpc.tls_certificate"),
        ({"AUTH_TOKENS": "/absent.toml"}, "auth.tokens"),
    ],
)
async def test_check_config_refuses_files_that_the_server_would_refuse(options, named):
    process = await start("check-config", **options)
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().startswith(f"animora-server: {named}: cannot read /absent")
    assert errors.decode().count("\n") == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"MODELS_VERIFY_KEY": "/absent.pem"}, "models.verify_key: /absent.pem"),
        ({"MODELS_ACTIVE_VERIFY_KEY": "/absent.pem"}, "models.active_verify_key: /absent.pem"),
        ({"ADMIN_ENABLED": "true", "ADMIN_SIGN_KEY": "/absent.pem"}, "admin.sign_key: /absent.pem"),
        ({"MODELS_STORE": "", "ADMIN_ENABLED": "true"}, "admin.enabled needs models"),
        ({"MODELS_STORE": "", "MODELS_READY_REQUIRES_MODEL": "true"}, "models.ready_requires_model needs"),
    ],
)
async def test_check_config_refuses_keys_and_a_missing_store_that_the_server_would_refuse(
    options, named, tmp_path
):
    process = await start("check-config", **{"MODELS_STORE": str(tmp_path)} | options)
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().startswith(f"animora-server: {named}")
    assert errors.decode().count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("MODELS_STORE", "s3:/x", "ANIMORA_MODELS_STORE: write s3://BUCKET/PREFIX"),
        ("CACHE_URL", "redis+sentinel://host", "cache.url: not a URL"),
        (
            "CACHE_URL",
            "rediss://u:hidden@host?ssl_cert_reqs=sometimes",
            "cache.url: the ssl_ options cannot be used",
        ),
    ],
)
async def test_check_config_refuses_an_address_that_the_server_would_refuse(option, value, named):
    process = await start("check-config", **{option: value})
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().startswith(f"animora-server: {named}")
    assert "hidden" not in errors.decode()


@pytest.mark.parametrize("option", ["--rate", "--active-days"])
@pytest.mark.parametrize("value", ["nan", "inf"])
async def test_a_number_that_is_not_finite_is_refused(option, value):
    process = await start("precompute", option, value)
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert option in errors.decode()
    assert "Traceback" not in errors.decode()
