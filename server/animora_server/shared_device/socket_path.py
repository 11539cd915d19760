"""Whether workers share a device, and the path of the device process' socket."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from animora_server.errors import ConfigurationError
from animora_server.settings import ScorerSettings

DEVICES = Path("/dev")
MAX_PATH_BYTES = 103  # the longest path of a Unix socket that all supported systems accept


def is_shared(settings: ScorerSettings, devices: Path = DEVICES) -> bool:
    """Whether one process holds the device for all workers.

    Args:
        settings: `shared` and `device` are read.
        devices: The folder of device files, where a GPU is found without loading PyTorch.
    """
    if settings.shared != "auto":
        return settings.shared == "on"
    if settings.device == "auto":
        return any(devices.glob("nvidia[0-9]*"))
    return settings.device.startswith("cuda")


@contextmanager
def socket_path() -> Iterator[str]:
    """A path for a socket in a new folder that only this user can enter; the folder is removed at the end.

    Raises:
        ConfigurationError: There is no folder for temporary files, or its path is too long.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="animora-")
    except OSError as error:
        raise ConfigurationError(
            f"TMPDIR: the socket of the shared device needs a temporary folder ({error.strerror})"
        ) from error
    with temporary as folder:
        path = str(Path(folder) / "device")
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise ConfigurationError(f"TMPDIR: {tempfile.gettempdir()} is too long for a socket in it")
        yield path
