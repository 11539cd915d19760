"""The server as in a container with a read-only root, an unknown user and no volume."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.artifacts import active_store
from tests.support.until import HANG_TIMEOUT

# Runs a command where all mounts are read-only but an empty /dev/shm, as user 2000 of group 0, which may read
# what this user may. Of the present /dev/shm only the folder in $KEPT is visible.
CONTAINER = r"""
set -e
mount --make-rprivate /
mount --rbind / "$ROOT"
awk '{print $5}' /proc/self/mountinfo | while read -r place; do
    case $place in
        "$ROOT"/proc*|"$ROOT"/sys*) ;;
        "$ROOT"*) mount -o remount,bind,ro "$place" 2>/dev/null || true ;;
    esac
done
mount -t tmpfs -o size=64m,mode=1777 shm "$ROOT/dev/shm"
case $KEPT in /dev/shm/*) mkdir "$ROOT$KEPT"; mount --bind "$KEPT" "$ROOT$KEPT" ;; esac
exec chroot "$ROOT" setpriv --reuid=2000 --regid=0 --clear-groups \
    --inh-caps=+dac_read_search --ambient-caps=+dac_read_search env --unset=ROOT --unset=KEPT "$@"
"""
WRITES = "import tempfile; tempfile.TemporaryFile(dir='/tmp')"


def contained(root: Path, kept: Path, *command: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and variables that run a command in such a container."""
    words = ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", *command]
    return words, {"PATH": os.environ["PATH"], "ROOT": str(root), "KEPT": str(kept)}


@pytest.fixture
def root(tmp_path: Path, server_directory: Path) -> Path:
    """A folder for the container's root."""
    folder = tmp_path / "root"
    folder.mkdir()
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("unshare and setpriv are needed")
    words, environ = contained(folder, server_directory, sys.executable, "-c", WRITES)
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    if "Read-only file system" not in done.stderr:
        pytest.skip(f"no right to make such a container: {done.stderr[-300:]}")
    return folder


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_server_serves_a_model_without_any_writable_folder(
    root: Path, server_directory: Path, feed, tmp_path: Path, workers: str
):
    active_store(tmp_path / "models")
    options = {
        "DATABASE_URL": feed.url,
        "MODELS_STORE": str(tmp_path / "models"),
        "MODELS_READY_REQUIRES_MODEL": "true",
        "GRPC_PORT": "0",
        "HTTP_PORT": "0",
        "GRPC_WORKERS": workers,
        "SCORER_DEVICE": "cpu",
    }
    words, environ = contained(root, server_directory, sys.executable, "-m", "animora_server", "serve")
    process = await asyncio.create_subprocess_exec(
        *words,
        env=environ
        | {f"ANIMORA_{name}": value for name, value in options.items()}
        | {"NUMBA_CACHE_DIR": "/var/lib/animora/compiled"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(HANG_TIMEOUT):
        async for line in process.stderr:
            lines.append(line.decode())
            if "health is SERVING" in lines[-1]:
                break
        process.terminate()
        await process.communicate()
    assert process.returncode == 0, lines
    assert any("model activated" in line for line in lines)
    assert not [line for line in lines if '"error"' in line or "Traceback" in line]
