"""`animora-train import`: fills Animora's own tables from a data set or with a made-up feed."""

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from animora_training.commands.console import output, progress_bars, report_errors
from animora_training.commands.options import DatabaseUrl
from animora_training.data.database import connect
from animora_training.importers.feed import ImportFeed
from animora_training.importers.importing import check_empty, import_feed, replace_feed
from animora_training.importers.ncf_import import read_feed
from animora_training.importers.sample import FULL, SMALL
from animora_training.importers.sample_activity import make_feed

app = typer.Typer(help="Fill Animora's own tables (schema animora_app).", no_args_is_help=True)

Replace = Annotated[bool, typer.Option("--replace", help="Delete everything that the tables hold first.")]


class Size(StrEnum):
    """How large the made-up feed is."""

    SMALL = "small"
    FULL = "full"


SIZES = {Size.SMALL: SMALL, Size.FULL: FULL}


@app.command()
def ncf(
    folder: Annotated[Path, typer.Argument(help="Folder with *.train.rating[.gz] and its companions.")],
    database_url: DatabaseUrl,
    replace: Replace = False,
) -> None:
    """Import a data set in the NCF text format; its test pairs stay outside."""
    with report_errors():
        asyncio.run(_check_target(database_url, replace))
        _import(read_feed(folder), database_url, replace)


@app.command()
def sample(
    database_url: DatabaseUrl,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same feed.")] = 0,
    now: Annotated[
        datetime | None, typer.Option(help="When the feed ends, in UTC; the present by default.")
    ] = None,
    size: Annotated[Size, typer.Option(help="A feed to try, or one for tests.")] = Size.FULL,
    replace: Replace = False,
) -> None:
    """Import a made-up pet-photo feed of the last 60 days, whose users' tastes are known."""
    moment = now.replace(tzinfo=UTC) if now else datetime.now(UTC)
    with report_errors():
        asyncio.run(_check_target(database_url, replace))
        _import(make_feed(SIZES[size], seed, moment.timestamp()), database_url, replace)


async def _check_target(database_url: str, replace: bool) -> None:
    """Fails before any long work where the import would fail at its end."""
    async with connect(database_url) as connection:
        if not replace:
            await check_empty(connection)


def _import(feed: ImportFeed, database_url: str, replace: bool) -> None:
    write = replace_feed if replace else import_feed

    async def run() -> None:
        async with connect(database_url) as connection:
            await write(connection, feed, show)

    with progress_bars() as show:
        asyncio.run(run())
    output().print(
        f"imported {len(feed.user_ids):,} users, {len(feed.posts.ids):,} posts, "
        f"{len(feed.likes.users):,} likes, {len(feed.comments.users):,} comments, "
        f"{len(feed.blocks.blockers):,} blocks"
    )
