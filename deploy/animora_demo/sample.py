"""Embedded servers that hold the sample feed, and a model trained on it."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from pydantic import SecretStr
from rich.console import Console

from animora_artifact import open_store
from animora_demo.embedded import EmbeddedPostgres, EmbeddedRedis, apply_schema
from animora_server.errors import AnimoraError
from animora_server.settings import Settings


class DemoFailed(AnimoraError):
    """A step of the demo failed; its own output says why."""


@dataclass(frozen=True, slots=True)
class SampleFeed:
    """Embedded servers that hold the sample feed, and a model trained on it."""

    database_url: str
    redis_url: str
    store: Path

    def serving(self, settings: Settings) -> Settings:
        """The settings with the addresses of these servers, and with a key for page tokens if none is set."""
        timeline = settings.timeline
        if not timeline.token_key.get_secret_value():
            timeline = timeline.model_copy(update={"token_key": SecretStr(secrets.token_hex())})
        return settings.model_copy(
            update={
                "grpc": settings.grpc.model_copy(update={"workers": 1}),  # one process
                "database": settings.database.model_copy(update={"url": SecretStr(self.database_url)}),
                "cache": settings.cache.model_copy(update={"url": SecretStr(self.redis_url)}),
                "models": settings.models.model_copy(
                    # Trusted, because the demo fills the store itself.
                    update={"store": str(self.store), "trusted": True, "ready_requires_model": True}
                ),
                "timeline": timeline,
            }
        )

    def configuration(self) -> str:
        """A configuration file with the addresses of these servers, for other commands."""
        sections: dict[str, dict[str, str | bool]] = {
            "database": {"url": self.database_url},
            "cache": {"url": self.redis_url},
            "models": {"store": str(self.store), "trusted": True},
        }
        # TOML's basic strings and booleans are JSON's.
        return "\n".join(
            f"[{section}]\n"
            + "".join(
                f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in options.items()
            )
            for section, options in sections.items()
        )


@asynccontextmanager
async def sample_feed(directory: Path, out: Console) -> AsyncIterator[SampleFeed]:
    """Starts the servers in a directory; imports the data and trains the model unless an earlier run has.

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
