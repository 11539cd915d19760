"""Making PostgreSQL runnable by the account that it is lent: in its place, or as a copy."""

import asyncio
import shutil
from pathlib import Path

from animora_demo.embedded.account import Account
from animora_demo.embedded.errors import EmbeddedError
from animora_demo.embedded.process import Program, run_to_end


async def runnable_by(account: Account, postgres: Path, home: Path) -> Path:
    """The program, or its copy in the home where the account cannot run it in its place.

    An environment below a home folder that only root may enter is such a place.

    Raises:
        EmbeddedError: The installation cannot be copied.
    """
    installation = postgres.parent.parent
    copy = home / f"installation-{_fingerprint(postgres)}"
    copied = copy / installation.parent.name / installation.name / "bin" / postgres.name
    if copied.exists():
        return copied
    try:
        await run_to_end(Program([postgres, "--version"], home, home / "probe.log", account=account))
    except EmbeddedError:
        await asyncio.to_thread(_copy, installation, copy)
        return copied
    return postgres


def _fingerprint(program: Path) -> str:
    """A name that changes when the program is upgraded."""
    status = program.stat()
    return f"{status.st_size:x}-{int(status.st_mtime):x}"


def _copy(installation: Path, copy: Path) -> None:
    """Copies an installation and the libraries that a wheel keeps beside its package, in the same layout."""
    package = installation.parent
    partial = copy.with_name("copying")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(
            installation,
            partial / package.name / installation.name,
            symlinks=True,
            ignore=shutil.ignore_patterns("include"),
        )
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        partial.rename(copy)
    except (OSError, shutil.Error) as error:
        raise EmbeddedError(f"cannot copy {installation} to where PostgreSQL may run it: {error}") from error
