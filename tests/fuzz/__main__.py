"""`make fuzz`: decodes mutated messages, for some minutes or until a count; exits with 1 for a finding."""

import argparse
import math
import sys
import time

from rich.console import Console

from tests.fuzz.fuzzing import fuzz_all
from tests.fuzz.targets import targets


def main() -> None:
    say = Console(soft_wrap=True, markup=False, highlight=False).print
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--count", type=float, default=math.inf, help="messages of all decoders together")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    say(f"seed {arguments.seed}")
    findings = fuzz_all(targets(), arguments.seed, arguments.count, until)
    say(f"{'decoder':<32}{'messages':>12}{'accepted':>12}{'refused':>12}{'undocumented':>14}")
    for name, finding in findings.items():
        undocumented = finding.undocumented.total()
        say(
            f"{name:<32}{finding.messages:>12,}{finding.accepted:>12,}{finding.refused:>12,}{undocumented:>14,}"
        )
        for text, message in finding.examples.items():
            say(f"    {text}\n    {message.hex()}")
    total = sum(finding.messages for finding in findings.values())
    say(f"{total:,} messages")
    sys.exit(any(finding.undocumented for finding in findings.values()))


if __name__ == "__main__":
    main()
