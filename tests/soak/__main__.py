"""`make soak`: runs a soak, draws it, and prints the verdict; exits with 1 if something is wrong."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.soak.picture import draw
from tests.soak.soak import Soaked, soak

SERVE = (sys.executable, "-m", "animora_server", "serve")
MAX_GROWTH = 0.05  # of memory after the warm-up


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--picture", type=Path, default=Path(".bench/soak.png"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="animora-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        soaked = asyncio.run(soak(Path(folder), arguments.minutes, SERVE))
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(soaked, arguments.picture)
    problems = soaked.problems(MAX_GROWTH)
    say = Console(soft_wrap=True, markup=False, highlight=False).print
    for line in summary(soaked):
        say(line)
    say(f"picture: {arguments.picture}")
    say("ok" if not problems else "NOT OK: " + "; ".join(problems[:20]))
    sys.exit(bool(problems))


def summary(soaked: Soaked) -> list[str]:
    """What was seen, a line for each subject."""
    ledger = soaked.ledger
    slow = sorted(ledger.seconds)[len(ledger.seconds) * 99 // 100]
    return [
        f"calls: {dict(ledger.outcomes)}, and {soaked.cancelled:,} that were cancelled",
        f"events: {len(soaked.events)}",
        f"wrong scores: {len(ledger.wrong)}",
        f"p99: {1000 * slow:.1f} ms",
        f"memory: {soaked.samples[-1].megabytes:.0f} MB, growth after the warm-up {soaked.growth:.1%}",
    ]


if __name__ == "__main__":
    main()
