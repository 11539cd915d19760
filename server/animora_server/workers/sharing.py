"""Whether workers share a device, and where its process listens."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from animora_server.settings import ScorerSettings

DEVICES = Path("/dev")


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
    """A path for a socket, in a folder that only this user can enter, and that goes at the end."""
    with tempfile.TemporaryDirectory(prefix="animora-") as folder:
        yield str(Path(folder) / "device")
