"""Makes PostgreSQL executable by an unprivileged account: in place, or as a copy."""

import asyncio
import shutil
from pathlib import Path

from animora_demo.embedded.account import Account
from animora_demo.embedded.errors import EmbeddedError
from animora_demo.embedded.process import Program, run_to_end


async def runnable_by(account: Account, postgres: Path, home: Path) -> Path:
    """Returns the program, or a copy in the home if the account cannot execute the original.

    This is the case for an environment in a folder that only root may enter.

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
    """A fingerprint that changes when the program is upgraded."""
    status = program.stat()
    return f"{status.st_size:x}-{int(status.st_mtime):x}"


def _copy(installation: Path, copy: Path) -> None:
    """Copies an installation, with the wheel's shared libraries if there are any, in the same layout."""
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
