"""`animora-train import`: fills Animora's own tables with a data set or a synthetic feed."""

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from animora_training.commands.console import output, progress_bars, report_errors
from animora_training.commands.options import DatabasePasswordFile, DatabaseUrl
from animora_training.data.database import Database, connect
from animora_training.importers.feed import ImportFeed
from animora_training.importers.importing import check_empty, import_feed, replace_feed
from animora_training.importers.ncf_import import read_feed
from animora_training.importers.sample import FULL, SMALL
from animora_training.importers.sample_activity import make_feed

app = typer.Typer(help="Fill Animora's own tables (schema animora_app).", no_args_is_help=True)

Replace = Annotated[bool, typer.Option("--replace", help="Delete all rows of the tables first.")]


class Size(StrEnum):
    """Size of the synthetic feed."""

    SMALL = "small"
    FULL = "full"


SIZES = {Size.SMALL: SMALL, Size.FULL: FULL}


@app.command()
def ncf(
    folder: Annotated[Path, typer.Argument(help="Folder with *.train.rating[.gz] and its companions.")],
    database_url: DatabaseUrl,
    replace: Replace = False,
    database_password_file: DatabasePasswordFile = None,
) -> None:
    """Import the training pairs of a data set in the NCF text format, not its test pairs."""
    database = Database(database_url, database_password_file)
    with report_errors():
        asyncio.run(_check_target(database, replace))
        _import(read_feed(folder), database, replace)


@app.command()
def sample(
    database_url: DatabaseUrl,
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed makes the same feed.")] = 0,
    now: Annotated[datetime | None, typer.Option(help="End of the feed, in UTC; now by default.")] = None,
    size: Annotated[Size, typer.Option(help="full for trying out, small for tests.")] = Size.FULL,
    replace: Replace = False,
    database_password_file: DatabasePasswordFile = None,
) -> None:
    """Import a synthetic pet-photo feed of the last 60 days, with known user tastes."""
    moment = now.replace(tzinfo=UTC) if now else datetime.now(UTC)
    database = Database(database_url, database_password_file)
    with report_errors():
        asyncio.run(_check_target(database, replace))
        _import(make_feed(SIZES[size], seed, moment.timestamp()), database, replace)


async def _check_target(database: Database, replace: bool) -> None:
    """Checks the target before the slow work: the database is reachable and, unless replaced, empty."""
    async with connect(database) as connection:
        if not replace:
            await check_empty(connection)


def _import(feed: ImportFeed, database: Database, replace: bool) -> None:
    write = replace_feed if replace else import_feed

    async def run() -> None:
        async with connect(database) as connection:
            await write(connection, feed, show)

    with progress_bars() as show:
        asyncio.run(run())
    output().print(
        f"imported {len(feed.user_ids):,} users, {len(feed.posts.ids):,} posts, "
        f"{len(feed.likes.users):,} likes, {len(feed.comments.users):,} comments, "
        f"{len(feed.blocks.blockers):,} blocks"
    )
