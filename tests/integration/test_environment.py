"""The server in its environment: a user without a name, ports in use, unusable certificates."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.redis_servers import make_certificates
from tests.support.until import HANG_TIMEOUT

NOBODY = 54_321  # a user id without a name
# Runs a command as that user, with the read access of this one.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=+dac_override", "--ambient-caps=+dac_override",
)  # fmt: skip
DEFAULTS = {
    "GRPC_PORT": "0",
    "HTTP_PORT": "0",
    "SCORER_DEVICE": "cpu",
    "DATABASE_URL": "postgresql://127.0.0.1:1/nothing",  # without a user: it defaults to that of the process
}


def can_be_nobody() -> bool:
    if shutil.which("setpriv") is None:
        return False
    who = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", "import getpass; getpass.getuser()"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    return "KeyError" in who.stderr or "OSError" in who.stderr


async def serve(*before: str, **options: str) -> asyncio.subprocess.Process:
    """Starts a server on free ports, with its options as the only variables."""
    options = DEFAULTS | options
    return await asyncio.create_subprocess_exec(
        *(*before, sys.executable, "-m", "animora_server", "serve"),
        env={"PATH": os.environ["PATH"]} | {f"ANIMORA_{name}": value for name, value in options.items()},
        stderr=asyncio.subprocess.PIPE,
    )


async def refused(**options: str) -> str:
    """The only line of a server that ends at its start."""
    process = await serve(**options)
    async with asyncio.timeout(HANG_TIMEOUT):
        _, errors = await process.communicate()
    assert process.returncode == 2
    lines = [line for line in errors.decode().splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.skipif(not can_be_nobody(), reason="no right to run as a user without a name (setpriv)")
async def test_a_user_without_a_name_can_run_the_server():
    process = await serve(*AS_NOBODY)
    assert process.stderr is not None
    async with asyncio.timeout(HANG_TIMEOUT):
        async for line in process.stderr:
            assert b"KeyError" not in line
            if b"ConnectionRefusedError" in line:
                break
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_grpc_port_in_use_at_one_address_of_its_host_is_named(workers: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = await refused(GRPC_PORT=str(port), GRPC_HOST="localhost", GRPC_WORKERS=workers)
    assert f"grpc.port: cannot listen on localhost port {port}" in line


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("certificate", "key", "named"),
    [("garbage", "leaf.key", "grpc.tls_certificate"), ("leaf.pem", "ca.key", "grpc.tls_key")],
)
async def test_an_unusable_certificate_or_key_is_named_before_the_database_is_up(
    tmp_path: Path, certificate: str, key: str, named: str, workers: str
):
    make_certificates(tmp_path)
    (tmp_path / "garbage").write_text("garbage")
    line = await refused(
        GRPC_TLS_CERTIFICATE=str(tmp_path / certificate),
        GRPC_TLS_KEY=str(tmp_path / key),
        GRPC_WORKERS=workers,
    )
    assert f"{named}: {tmp_path}" in line
