"""A real nginx before two servers, with the settings that docs/client.md gives."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "client.md"
# Debian keeps it where only root looks.
PROGRAM = shutil.which("nginx", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def nginx(directory: Path, ports: Sequence[int]) -> AsyncIterator[str]:
    """Runs nginx before servers at two ports; gives the target to call, a socket in the directory."""
    if PROGRAM is None:
        pytest.skip("nginx is not installed")
    socket = directory / "nginx.sock"
    documented = DOCS.read_text().partition("```nginx\n")[2].partition("```")[0]
    for address, port in zip(("10.0.0.1:50051", "10.0.0.2:50051"), ports, strict=True):
        assert address in documented
        documented = documented.replace(address, f"127.0.0.1:{port}")
    assert "listen 50051" in documented
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off;
        pid {directory}/nginx.pid;
        error_log {directory}/error.log;
        {"user root;" if os.getuid() == 0 else ""}
        events {{}}
        http {{
            access_log off;
            {" ".join(f"{kind}_temp_path {directory}/{kind};" for kind in TEMPORARY)}
            {documented.replace("listen 50051", f"listen unix:{socket}")}
        }}
        """
    )
    process = await asyncio.create_subprocess_exec(PROGRAM, "-p", directory, "-c", configuration)
    try:
        yield f"unix:{socket}"
        assert process.returncode is None, (directory / "error.log").read_text()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
