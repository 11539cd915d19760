"""The home of an embedded server: the given directory, or a replacement with a short, accessible path."""

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from animora_demo.embedded.account import Account
from animora_demo.embedded.errors import EmbeddedError

# The kernel takes 107 bytes for a socket's path, macOS 103; servers append up to 24 bytes to the home.
MAX_HOME_BYTES = 72
ELSEWHERE = "elsewhere"
LOCK_ATTEMPTS = 100  # two seconds, for the processes of a killed server to end
RETRY_INTERVAL = 0.02


def settle(directory: Path, account: Account | None) -> Path:
    """Finds or creates the home of a server for a directory; the same home each time.

    The home is the directory itself if its path is short enough for a socket and the account can enter it.
    Otherwise it is a temporary folder, and the link `elsewhere` in the directory points to it. Permissions of
    existing folders are never changed. New folders belong to this process' user, not to the account, so that
    the account cannot plant a link where root writes.

    Raises:
        EmbeddedError: The directory cannot be created, or no folder is suitable.
    """
    try:
        if not directory.exists():
            directory.mkdir(parents=True)
            directory.chmod(_mode(account))
        directory = directory.resolve()
        if _fits(directory, account):
            return directory
        link = directory / ELSEWHERE
        if link.is_dir() and _fits(link.resolve(), account) and link.stat().st_uid == os.geteuid():
            return link.resolve()
        home = _make_home(account)
        link.unlink(missing_ok=True)
        link.symlink_to(home)
    except OSError as error:
        raise EmbeddedError(f"cannot use {directory}: {error.strerror}") from error
    return home


@asynccontextmanager
async def locked(home: Path) -> AsyncIterator[int]:
    """Locks a home for one server, and yields the lock's descriptor for the server to inherit.

    The lock is held while any process that inherited it lives, so the successor of a killed server waits for
    the last process of it.

    Raises:
        EmbeddedError: Another server uses the home, or it belongs to another user.
    """
    try:
        file = (home / "lock").open("w")
    except OSError as error:
        raise EmbeddedError(f"cannot use {home}: {error.strerror}") from error
    with file:
        await _lock(file.fileno(), home)
        yield file.fileno()


async def _lock(descriptor: int, home: Path) -> None:
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(RETRY_INTERVAL)
        else:
            return
    raise EmbeddedError(f"another server runs in {home}")


def _make_home(account: Account | None) -> Path:
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if not Path(parent).is_dir():
            continue
        home = Path(tempfile.mkdtemp(prefix="animora-", dir=parent)).resolve()
        home.chmod(_mode(account))
        if _fits(home, account):
            return home
        home.rmdir()
    raise EmbeddedError(
        "no temporary folder has a short path and lets an unprivileged user through: set TMPDIR"
    )


def _fits(directory: Path, account: Account | None) -> bool:
    if len(os.fsencode(directory)) > MAX_HOME_BYTES:
        return False
    return account is None or account.can_enter(directory)


def _mode(account: Account | None) -> int:
    return 0o700 if account is None else 0o711
