"""What a worker and the process that started it tell each other: JSON lines on a socket that only they have.

The parent begins with `{"name": …, "settings": …, "device_socket": …}`, the last null where each worker has a
device of its own. Later it sends `{"ask": "state"}`, answered with `{"state": {"dead": …, "unready": …}}`,
`{"ask": "metrics"}`, answered with `{"metrics": …}`, and `{"ask": "drain"}`.
Unasked, a worker sends its last metrics, and `{"refused": …}` where an option is wrong.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from animora_server.settings import Settings

# Bytes of a line at most: metrics take some 40 KiB.
LONGEST = 16 << 20

# The name of the process whose device workers share; theirs are numbers.
DEVICE = "device"

Message = dict[str, Any]


def to_line(message: Message) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """A message as it was sent."""
    message: Message = json.loads(line)
    return message


def settings_message(settings: Settings) -> Message:
    """All options, secrets included: for a worker's ears only. `Settings.model_validate` reads them."""
    return {
        section: {name: _plain(value) for name, value in getattr(settings, section)}
        for section in Settings.model_fields
    }


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value
