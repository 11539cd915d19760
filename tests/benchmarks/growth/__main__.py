"""`make bench-growth`: how serving grows with candidates, users, posts and callers, and how fast posts load.

Posts and model are synthetic; the server is the real one, on a core of its own. Each curve is stored by
itself, so that one can be measured again alone: `python -m tests.benchmarks.growth catalog`.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from animora_demo.embedded import EmbeddedPostgres
from tests.benchmarks import h2load, results
from tests.benchmarks.growth import (
    candidates,
    catalog,
    concurrency,
    databases,
    loading,
    plots,
    users,
    version,
)
from tests.benchmarks.growth.server_load import serving

RESULT = Path("docs/benchmarks/growth.json")
PLOTS = {
    "candidates": plots.candidates,
    "users": plots.users,
    "catalog": plots.catalog,
    "concurrency": plots.concurrency,
}
CURVES = (*PLOTS, "loading")
POSTS = 100_000  # of the catalog, in the curves that do not vary it
ROUNDS = 3
SECONDS = 2


async def run(out: Console, curves: Sequence[str]) -> None:
    """Measures the given curves, stores and draws them; the other curves stay."""
    async with EmbeddedPostgres(Path(".bench/growth")) as postgres:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder)
            version.publish(store)
            for name in curves:
                out.rule(name)
                store_curve(name, await measure(out, postgres, store, name))


async def measure(out: Console, postgres: EmbeddedPostgres, store: Path, name: str) -> object:
    """Measures one curve; returns what is stored of it."""
    if name == "loading":
        return await loading.measure(out, postgres, loading.TYPES, loading.POSTS, ROUNDS)
    if name == "catalog":
        return await catalog.measure(out, postgres, store, catalog.SIZES, ROUNDS, SECONDS)
    async with serving(await databases.served(postgres, POSTS), store) as server:
        if name == "concurrency":
            return await concurrency.measure(out, server, POSTS, concurrency.CALLERS, ROUNDS, SECONDS)
        sizes, measured = (candidates.SIZES, candidates) if name == "candidates" else (users.SIZES, users)
        return await measured.measure(out, server, POSTS, sizes, ROUNDS, SECONDS)


def store_curve(name: str, curve: Any) -> None:
    """Writes a curve into the JSON file, and its picture beside it."""
    results.update(
        RESULT, {name: curve, "generator": "h2load" if h2load.installed() else "animora-client bench"}
    )
    if name in PLOTS:
        PLOTS[name](curve, RESULT.with_name(f"growth-{name}.png"))


def main(
    curves: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(CURVES)}; all.")] = None,
) -> None:
    """Measures and draws."""
    unknown = set(curves or ()) - set(CURVES)
    if unknown:
        raise typer.BadParameter(f"there is no curve {', '.join(unknown)}")
    asyncio.run(run(Console(), curves or CURVES))


if __name__ == "__main__":
    typer.run(main)
