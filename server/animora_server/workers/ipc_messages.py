"""The messages between supervisor and worker: JSON lines on a socket pair.

The supervisor first sends `{"name": …, "settings": …, "device_socket": …}`; the socket is null unless the
workers share a device. Later it sends:

* `{"ask": "state"}`, answered with `{"state": {"dead": …, "unready": …}}`;
* `{"ask": "metrics"}`, answered with `{"metrics": …}`;
* `{"ask": "drain"}`, which has no answer.

A worker also sends its final metrics, and `{"refused": …}` where an option is invalid.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from animora_server.settings import Settings
from animora_server.settings.section import Section

# The longest accepted line; metrics take about 40 KiB.
MAX_LINE_BYTES = 16 << 20

# The name of the shared device's process; workers are named by number.
DEVICE = "device"

Message = dict[str, Any]


def encode_message(message: Message) -> bytes:
    """Encodes a message as one line."""
    return json.dumps(message).encode() + b"\n"


def decode_message(line: bytes) -> Message:
    """Decodes one line."""
    message: Message = json.loads(line)
    return message


def encode_settings(settings: Settings) -> Message:
    """Encodes all options, including secrets in plain text. `Settings.model_validate` decodes them."""
    return {
        section: {name: _to_plain(value) for name, value in getattr(settings, section)}
        for section in Settings.model_fields
    }


def _to_plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Section):
        return {name: _to_plain(each) for name, each in value}
    if isinstance(value, Mapping):
        return {name: _to_plain(each) for name, each in value.items()}
    return str(value) if isinstance(value, Path) else value
