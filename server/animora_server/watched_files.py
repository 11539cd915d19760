"""Values that are made of files, and made again when the files change."""

import asyncio
import codecs
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from animora_process.small_file import UnusableFile, read_small_file
from animora_server.background import BackgroundLoop, Backoff, LoopOwner
from animora_server.errors import ConfigurationError

log = structlog.get_logger(__name__)

RELOAD_INTERVAL = 2.0  # seconds
MAX_BYTES = 4 << 20  # of a file

Value = TypeVar("Value")
Contents = Mapping[str, bytes]  # of each file, by the option that names it


class WatchedFiles(LoopOwner, Generic[Value]):
    """The value that small files make. An async context manager: in its block it follows the files.

    Every `RELOAD_INTERVAL` the files are read whole and compared, which also notices a symbolic link that
    points elsewhere, as Kubernetes updates a mounted secret. If they cannot be read, or make no value, the
    last value stays, and the loop logs and counts the failure until the files are in order again.

    Args:
        name: The name of the background loop.
        files: The files, by the option that names them.
        parse: Makes the value; raises ConfigurationError. Called on a thread.

    Attributes:
        value: The last value. Replaced by a reload; reading it is thread-safe.
        loop: The background loop.

    Raises:
        ConfigurationError: A file cannot be read, or the files make no value.
    """

    def __init__(self, name: str, files: Mapping[str, Path], parse: Callable[[Contents], Value]) -> None:
        self._files = dict(files)
        self._parse = parse
        self._contents = read_files(self._files)
        self.value = parse(self._contents)
        self.loop = BackgroundLoop(name, self._reload, backoff=Backoff(RELOAD_INTERVAL, RELOAD_INTERVAL))

    async def _reload(self) -> float:
        contents = await asyncio.to_thread(read_files, self._files)
        if contents != self._contents:
            self.value = await asyncio.to_thread(self._parse, contents)
            self._contents = contents
            log.info("files reloaded", task=self.loop.name, files=[*map(str, self._files.values())])
        return RELOAD_INTERVAL


def read_files(files: Mapping[str, Path]) -> Contents:
    """Reads files, each without a byte order mark.

    Raises:
        ConfigurationError: A file cannot be read, is no regular file or larger than MAX_BYTES; the text names
            its option.
    """
    contents = {}
    for option, path in files.items():
        try:
            content = read_small_file(path, MAX_BYTES)
        except UnusableFile as error:
            raise ConfigurationError(f"{option}: {error}") from error
        contents[option] = content.removeprefix(codecs.BOM_UTF8)  # gRPC rejects the mark
    return contents
