"""`make bench-peers`: users ranked for a second, beside other model servers with the same artifact.

Every server has an environment of its own and may use all cores, which the load shares with it. All rank the
same candidates of the same users, in turns; the medians of the turns are reported. h2load checks only the
size of the replies, so our own generator first checks the content of each server's replies to many concurrent
queries.
"""

import argparse
import asyncio
import json
from pathlib import Path

from rich.console import Console

from animora_demo import sample_feed
from tests.benchmarks import results
from tests.benchmarks.peers.comparison import Plan, Result, measure
from tests.benchmarks.peers.ranking import BEST, CANDIDATES
from tests.benchmarks.peers.report import as_table, draw, ratios
from tests.benchmarks.peers.servers import PEERS
from tests.benchmarks.processes import CORES

ROUNDS = 5
SECONDS = 4
WORKERS = CORES  # processes of Animora's server
RESULT, PICTURE = Path("docs/benchmarks/peers.json"), Path("docs/benchmarks/peers.png")


async def run(out: Console, plan: Plan, names: set[str]) -> None:
    """Measures on the sample feed, prints the table, and writes the JSON and the picture."""
    peers = [peer for peer in PEERS if not names or peer.folder in names]
    async with sample_feed(Path(".bench"), out) as feed:
        result = await measure(out, feed, plan, peers)
    title = f"The best {BEST} of {CANDIDATES} candidates, all servers on the same cores"
    out.print(as_table(result.sides, title))
    for key, ratio in ratios(result.sides).items():
        out.print(f"{key}: {ratio}")
    write(result, title)
    out.print(f"written to {RESULT}, {PICTURE} and {results.SERVING}")


def write(result: Result, title: str) -> None:
    """Writes the JSON, the ratios beside those of `make bench`, and the picture."""
    found = ratios(result.sides)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    sides = {name: side.rounded() for name, side in result.sides.items()}
    content = {"sides": sides, **found, "left_out": result.left_out}
    RESULT.write_text(json.dumps(content, indent=2) + "\n")
    results.update(results.SERVING, found)
    draw(result.sides, title, PICTURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each side")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of a turn")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes of Animora's server")
    parser.add_argument("--peer", action="append", default=[], choices=[peer.folder for peer in PEERS])
    options = parser.parse_args()
    plan = Plan(options.rounds, options.seconds, CANDIDATES, options.workers)
    asyncio.run(run(Console(highlight=False), plan, set(options.peer)))
