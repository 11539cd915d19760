"""Whether workers share a device, and where its process listens."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from animora_server.errors import ConfigurationError
from animora_server.settings import ScorerSettings

DEVICES = Path("/dev")
LONGEST_PATH = 103  # bytes of a socket's path: some systems take no more


def is_shared(settings: ScorerSettings, devices: Path = DEVICES) -> bool:
    """Whether one process has the device for all workers.

    Args:
        settings: `shared` and `device` count.
        devices: Where the kernel shows GPUs: this process does not load PyTorch to ask it for one.
    """
    if settings.shared != "auto":
        return settings.shared == "on"
    if settings.device == "auto":
        return any(devices.glob("nvidia[0-9]*"))
    return settings.device.startswith("cuda")


@contextmanager
def socket_path() -> Iterator[str]:
    """A path for a socket, in a folder that only this user can enter, and that goes at the end.

    Raises:
        ConfigurationError: The system has no folder for temporary files, or its name is too long.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="animora-")
    except OSError as error:
        raise ConfigurationError(
            f"TMPDIR: the socket of the shared device needs a temporary folder ({error.strerror})"
        ) from error
    with made as folder:
        path = str(Path(folder) / "device")
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise ConfigurationError(f"TMPDIR: {tempfile.gettempdir()} is too long for a socket in it")
        yield path
