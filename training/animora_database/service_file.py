"""The file in which libpq finds the options of a service, `pg_service.conf`.

asyncpg reads a part of the options, and takes a service that no file has for none.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from animora_database.errors import InvalidDsn

NAME = "pg_service.conf"


def service_options(service: str, file: str | None) -> dict[str, str]:
    """The options of a service by libpq's key words, as the first file that has the service says.

    Args:
        service: Its name.
        file: Where to look; None for the file that PGSERVICEFILE names or `~/.pg_service.conf`, and then
            for the one in PGSYSCONFDIR.

    Raises:
        InvalidDsn: No file has it, or its part of the file cannot be read; the text holds no value.
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
    """The options of the file's first part of this name, or None where it has none."""
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
