"""What a notification says, as deploy/sql/025_notify.sql writes it."""

import re

from animora_server.catalog import ChangeEvents

CHANNEL = "animora"
PAYLOAD = re.compile(r"(?:(block|unblock) (-?\d{1,19}) (-?\d{1,19})|delete((?: -?\d{1,19})+))", re.ASCII)
LOWEST, HIGHEST = -(2**63), 2**63 - 1


def read_payload(payload: str) -> ChangeEvents:
    """The facts that a payload tells.

    Raises:
        ValueError: It is none of `block 12 34`, `unblock 12 34` and `delete 56 57`, or someone blocks
            themselves; anyone may notify.
    """
    found = PAYLOAD.fullmatch(payload)
    if found is None:
        raise ValueError("not a fact")
    word, blocker, blocked, deleted = found.groups()
    if word is None:
        return ChangeEvents(deleted=frozenset(_id(digits) for digits in deleted.split()))
    pair = _id(blocker), _id(blocked)
    if pair[0] == pair[1]:
        raise ValueError("nobody blocks themselves")
    return ChangeEvents(blocks=frozenset((pair,))) if word == "block" else ChangeEvents(unblocked=True)


def _id(digits: str) -> int:
    value = int(digits)
    if not LOWEST <= value <= HIGHEST:
        raise ValueError("an id has 64 bits")
    return value
