"""Runs decoders over mutated messages; finds errors that are not documented, and hangs."""

import faulthandler
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from tests.fuzz.mutation import mutations
from tests.fuzz.targets import Target

HANG_TIMEOUT = 60  # seconds for PART messages; then the process prints where it hangs, and exits
PART = 1000


@dataclass
class Finding:
    """What a target did: how many messages it accepted and refused, and what it should not have raised."""

    accepted: int = 0
    refused: int = 0
    undocumented: Counter[str] = field(default_factory=Counter)
    examples: dict[str, bytes] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        """How many messages there were."""
        return self.accepted + self.refused + self.undocumented.total()


def fuzz(target: Target, count: int, seed: int) -> Finding:
    """Decodes a number of messages.

    Args:
        target: The decoder.
        count: How many messages.
        seed: The same seed gives the same messages.
    """
    finding = Finding()
    messages = islice(mutations(target.seeds, seed), count)
    while part := list(islice(messages, PART)):
        faulthandler.dump_traceback_later(HANG_TIMEOUT, exit=True)
        for message in part:
            _decode(target, message, finding)
        faulthandler.cancel_dump_traceback_later()
    return finding


def _decode(target: Target, message: bytes, finding: Finding) -> None:
    try:
        target.decode(message)
    except target.documented:
        finding.refused += 1
    except Exception as error:  # what the fuzzer looks for
        text = f"{type(error).__name__}: {error}"[:200]
        finding.undocumented[text] += 1
        finding.examples.setdefault(text, message)
    else:
        finding.accepted += 1


def fuzz_all(targets: Sequence[Target], seed: int, count: int, until: float) -> dict[str, Finding]:
    """Fuzzes the targets in turns, until each has had `count` messages or the time is over.

    Args:
        targets: The decoders.
        seed: The first seed; each turn has the next.
        count: Messages of all targets together.
        until: When to end, as `time.monotonic()`.
    """
    findings = {target.name: Finding() for target in targets}
    done = 0
    while done < count and time.monotonic() < until:
        for target in targets:
            found, total = fuzz(target, PART, seed), findings[target.name]
            total.accepted += found.accepted
            total.refused += found.refused
            total.undocumented += found.undocumented
            total.examples |= found.examples
            done += found.messages
        seed += 1
    return findings
