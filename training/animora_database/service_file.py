"""Reads connection options of a service from libpq's `pg_service.conf`.

asyncpg supports only a part of the options, and ignores a missing service.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from animora_database.errors import InvalidDsn

NAME = "pg_service.conf"


def service_options(service: str, file: str | None) -> dict[str, str]:
    """Options of a service by libpq's key words, from the first file that defines the service.

    Args:
        service: Name of the service.
        file: Path of the file; None for that of PGSERVICEFILE or `~/.pg_service.conf`, then the one in
            PGSYSCONFDIR.

    Raises:
        InvalidDsn: No file defines the service, or its section is invalid; the text quotes no value.
    """
    for path in _places(file):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError):
            raise InvalidDsn(f"service: {path} cannot be read") from None
        found = _options(lines, service, path)
        if found is not None:
            return found
    if file and not Path(file).is_file():
        raise InvalidDsn("servicefile: there is no such file")
    raise InvalidDsn(f"service: no {NAME} has it")


def _places(file: str | None) -> Iterator[Path]:
    if file or (file := os.environ.get("PGSERVICEFILE")):
        yield Path(file)
    else:
        with suppress(RuntimeError):  # a user without a home
            yield Path.home() / f".{NAME}"
    if folder := os.environ.get("PGSYSCONFDIR"):
        yield Path(folder, NAME)


def _options(lines: list[str], service: str, path: Path) -> dict[str, str] | None:
    """Options of the first section with this name; None without such a section."""
    found: dict[str, str] | None = None
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if found is not None:
                break
            if line == f"[{service}]":
                found = {}
        elif found is not None:
            name, equals, value = line.partition("=")
            if not equals or name in {"service", "servicefile"}:
                raise InvalidDsn(f"service: {path}, line {number}: must be an option of a connection")
            found.setdefault(name, value)
    return found
