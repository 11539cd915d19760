import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import yaml

from animora_demo.embedded.binaries import find_postgres
from animora_demo.embedded.schema import schema_files
from animora_server.configuration import load_settings
from animora_server.timeline.store import settings_digest


@pytest.fixture(scope="module")
def deploy(checkout):
    return checkout / "deploy"


def mounts(service):
    """(source, target) of a service's volumes."""
    return [tuple(volume.split(":")[:2]) for volume in service.get("volumes", [])]


def test_builds_name_files_that_exist(compose, deploy):
    builds = [service["build"] for service in compose["services"].values() if "build" in service]
    assert len(builds) == 2
    for build in builds:
        assert (deploy / build["context"] / build["dockerfile"]).is_file()


def test_build_arguments_are_the_dockerfiles(compose, checkout):
    for service in compose["services"].values():
        if build := service.get("build"):
            declared = re.findall(r"^ARG (\w+)", (checkout / build["dockerfile"]).read_text(), re.MULTILINE)
            assert set(build["args"]) <= set(declared)


def test_an_image_that_is_not_pulled_is_built(compose):
    services = compose["services"].values()
    built = {service["image"] for service in services if "build" in service}
    assert {service["image"] for service in services if service["image"].startswith("animora")} == built


def test_mounts_are_files_that_exist_or_volumes_that_are_declared(compose, deploy):
    for service in compose["services"].values():
        for source, _ in mounts(service):
            assert (deploy / source).exists() if source.startswith(".") else source in compose["volumes"]


def test_services_wait_for_services_with_a_health_check(compose):
    for service in compose["services"].values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in compose["services"][name]


def test_postgres_runs_all_sql_files_in_order_except_the_adapter(compose):
    scripts = [
        Path(target).name for _, target in mounts(compose["services"]["postgres"]) if "initdb" in target
    ]
    assert scripts == sorted(scripts)
    assert [name for name in scripts if name.endswith(".sql")] == [file.name for file in schema_files()]


def test_the_server_accepts_its_environment(compose):
    environment = compose["services"]["server"]["environment"]
    settings = load_settings({**environment, "ANIMORA_GRPC_HOST": "0.0.0.0"}, None)
    assert settings.grpc.insecure
    assert settings.timeline.token_key


def test_precompute_and_server_have_the_same_timeline_settings(compose):
    services = compose["services"]
    server, precompute = (
        load_settings({"ANIMORA_GRPC_HOST": "0.0.0.0"} | services[name]["environment"], None)
        for name in ("server", "precompute")
    )
    assert (precompute.database, precompute.cache) == (server.database, server.cache)
    assert settings_digest(precompute.timeline, precompute.ranking) == settings_digest(
        server.timeline, server.ranking
    )
    assert "models" in [source for source, _ in mounts(services["precompute"])]


def test_urls_name_services(compose):
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if name.startswith("ANIMORA_") and "://" in value:
                assert urlsplit(value).hostname in compose["services"]


def test_the_server_has_time_to_drain(compose):
    settings = load_settings({}, None).grpc
    grace = compose["services"]["server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > settings.drain_delay + settings.drain_grace


def test_ports_are_published_on_loopback_alone(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_is_a_bounded_cache(compose):
    command = compose["services"]["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "allkeys-lru"
    assert "--maxmemory" in command


def test_variables_that_must_be_set_are_in_the_example(deploy):
    required = set(re.findall(r"\$\{(\w+):\?", (deploy / "compose.yaml").read_text()))
    example = (deploy / "example.env").read_text()
    assert required
    assert all(re.search(f"^{name}=$", example, re.MULTILINE) for name in required)


def test_the_gpu_file_adds_to_services_that_exist(compose, deploy):
    gpu = yaml.safe_load((deploy / "compose.gpu.yaml").read_text())["services"]
    assert set(gpu) <= set(compose["services"])
    assert load_settings(gpu["server"]["environment"], None).scorer.device == "cuda"


async def test_the_reader_gets_its_password(postgres_url, deploy):
    psql = find_postgres().parent / "psql"
    if not psql.is_file():
        pytest.skip("this PostgreSQL comes without psql")
    url = urlsplit(postgres_url)
    (host,) = parse_qs(url.query)["host"]
    await asyncio.to_thread(
        subprocess.run,
        ["sh", deploy / "postgres/040_reader_password.sh"],
        env={
            "PATH": f"{psql.parent}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": host,
            "POSTGRES_USER": "animora",
            "POSTGRES_DB": url.path.removeprefix("/"),
            "READER_PASSWORD": "it's $secret",
        },
        check=True,
        capture_output=True,
        timeout=60,  # else the interpreter waits for the thread
    )
    connection = await asyncpg.connect(postgres_url)
    stored = await connection.fetchval("select rolpassword from pg_authid where rolname = 'animora_reader'")
    await connection.execute("alter role animora_reader password null")
    await connection.close()
    assert stored.startswith("SCRAM-SHA-256$")


def test_docker_accepts_the_file(deploy):
    docker = shutil.which("docker") or pytest.skip("docker is not installed")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    result = subprocess.run(
        [docker, "compose", "--file", deploy / "compose.yaml", "--profile", "jobs", "config", "--quiet"],
        env={**os.environ, "POSTGRES_PASSWORD": "a", "READER_PASSWORD": "b", "TOKEN_KEY": "c" * 16},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
