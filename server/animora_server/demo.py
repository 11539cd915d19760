"""The demo: the whole path on sample data, with embedded servers, in one command."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from animora_artifact import open_store
from animora_server.app import Application, running
from animora_server.embedded import EmbeddedPostgres, EmbeddedRedis, apply_schema
from animora_server.errors import AnimoraError
from animora_server.settings import Settings

CANDIDATES = 60
SHOWN = 5

WARM_USERS = """
    SELECT user_id FROM animora.interactions GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 2
"""
COLD_USER = """
    SELECT id FROM animora.users WHERE id NOT IN (SELECT user_id FROM animora.interactions)
    ORDER BY id LIMIT 1
"""
LIKED = """
    SELECT p.caption FROM animora.interactions i JOIN animora_app.posts p ON p.id = i.post_id
    WHERE i.user_id = $1 GROUP BY p.id, p.caption ORDER BY max(i.created_at) DESC LIMIT 3
"""
NEWEST_POSTS = """
    SELECT id, caption FROM animora_app.posts WHERE deleted_at IS NULL ORDER BY created_at DESC LIMIT $1
"""


class DemoFailed(AnimoraError):
    """A step of the demo failed; its own output says why."""


@dataclass(frozen=True, slots=True)
class SampleFeed:
    """Embedded servers that hold the sample feed, and a model trained on it."""

    database_url: str
    redis_url: str
    store: Path

    def serving(self, settings: Settings) -> Settings:
        """The settings at hand, pointed at these servers."""
        return settings.model_copy(
            update={
                "database": settings.database.model_copy(update={"url": SecretStr(self.database_url)}),
                "cache": settings.cache.model_copy(update={"url": SecretStr(self.redis_url)}),
                "models": settings.models.model_copy(
                    update={"store": str(self.store), "ready_requires_model": True}
                ),
            }
        )


@asynccontextmanager
async def sample_feed(directory: Path, out: Console) -> AsyncIterator[SampleFeed]:
    """Starts the servers in a directory, and imports and trains where an earlier run has not.

    Raises:
        EmbeddedError: A server cannot be started.
        DemoFailed: The import or the training failed.
    """
    home = await asyncio.to_thread(directory.resolve)
    async with EmbeddedPostgres(home / "postgres") as postgres, EmbeddedRedis(home / "redis") as redis:
        out.print(f"[bold]*[/bold] PostgreSQL and Redis run in {directory}")
        await apply_schema(postgres.url)
        feed = SampleFeed(postgres.url, redis.url, home / "models")
        if not await _is_filled(feed):
            out.print("[bold]*[/bold] Importing a pet-photo feed")
            await _train("import", "sample", "--database-url", feed.database_url)
        if await asyncio.to_thread(open_store(str(feed.store)).active) is None:
            out.print("[bold]*[/bold] Training NeuCF on its likes and comments")
            await _train("fit", "--database-url", feed.database_url, "--store", str(feed.store), "--activate")
        yield feed


@dataclass(frozen=True, slots=True)
class Demo:
    """Runs the demo in a directory, which makes a second run start in seconds."""

    directory: Path
    settings: Settings
    out: Console

    async def run(self) -> int:
        """Runs until SIGINT or SIGTERM. Returns the exit status."""
        program = asyncio.create_task(self._serve())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, program.cancel)
        with suppress(asyncio.CancelledError):
            await program
        return 0

    async def _serve(self) -> None:
        async with (
            sample_feed(self.directory, self.out) as feed,
            running(feed.serving(self.settings)) as server,
        ):
            await self._show(server, feed.database_url)
            await asyncio.Event().wait()

    async def _show(self, application: Application, database_url: str) -> None:
        """Prints three users' ranked feeds, asked for through the client's command line."""
        await application.wait_until_serving()
        users, captions = await _audience(database_url)
        target = f"{self.settings.grpc.host}:{application.grpc.port}"
        for user in users:
            self.out.print(f"\nuser {user.id} {user.story()}")
            self.out.print(_feed(await _rank(target, user.id, list(captions)), captions))
        self.out.print(
            f"\nServing on {target}; metrics: http://{self.settings.http.host}:{application.probes.port}/metrics"
            f"\nTry: animora rank --target {target} --user {users[0].id} "
            f"--posts {','.join(map(str, list(captions)[:5]))}"
            "\nCtrl-C stops everything."
        )


@dataclass(frozen=True, slots=True)
class User:
    """Someone whose feed is shown, and what they liked last."""

    id: int
    liked: list[str]

    def story(self) -> str:
        """What a reader needs to judge the order."""
        if not self.liked:
            return "is new here."
        return "liked these last:\n" + "\n".join(f"  - {caption}" for caption in self.liked)


async def _audience(database_url: str) -> tuple[list[User], dict[int, str]]:
    """Two busy users and a new one, and the newest posts' captions by id."""
    connection = await asyncpg.connect(database_url)
    try:
        ids = [row["user_id"] for row in await connection.fetch(WARM_USERS)]
        ids.append(await connection.fetchval(COLD_USER))
        users = [User(user, [row["caption"] for row in await connection.fetch(LIKED, user)]) for user in ids]
        posts = await connection.fetch(NEWEST_POSTS, CANDIDATES)
    finally:
        await connection.close()
    return users, {row["id"]: row["caption"] for row in posts}


async def _is_filled(feed: SampleFeed) -> bool:
    connection = await asyncpg.connect(feed.database_url)
    try:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM animora_app.users)"))
    finally:
        await connection.close()


async def _train(*arguments: str) -> None:
    """Runs animora-train, which shows its own progress."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "animora_training", *arguments)
    try:
        await process.wait()
    finally:
        if process.returncode is None:  # the demo is being stopped
            process.terminate()
            await process.wait()
    if process.returncode:
        raise DemoFailed(f"animora-train {' '.join(arguments[:2])} failed; its output above says why")


async def _rank(target: str, user: int, post_ids: list[int]) -> dict[str, Any]:
    """What `animora rank --json` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from animora_client.cli import main; main()", "rank", "--json"),
        *("--target", target, "--user", str(user), "--limit", str(SHOWN), "--timeout", "5"),
        *("--posts", ",".join(map(str, post_ids))),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise DemoFailed(f"animora rank failed for user {user}; its output above says why")
    ranking: dict[str, Any] = json.loads(output)
    return ranking


def _feed(ranking: dict[str, Any], captions: dict[int, str]) -> Table:
    model = f", model {ranking['model_version']}" if ranking["model_version"] else ""
    title = f"the best {SHOWN} of the {CANDIDATES} newest posts, by {ranking['ranker']}{model}"
    table = Table(title=title, title_justify="left")
    table.add_column("post", justify="right")
    table.add_column("score", justify="right")
    table.add_column("caption")
    for post in ranking["posts"]:
        table.add_row(str(post["post_id"]), f"{post['score']:.4f}", captions[post["post_id"]])
    return table
