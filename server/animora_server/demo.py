"""The demo: the whole path on sample data, with embedded servers, in one command."""

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterable
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
SAME_FOR_ALL_POSTS = {"mlp_user", "bias"}  # terms that say nothing of why one post is before another
CONFIGURATION = "animora.toml"  # in the demo's directory, for the commands that its end suggests

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
CAPTIONS = "SELECT id, caption FROM animora_app.posts WHERE id = ANY($1)"


class DemoFailed(AnimoraError):
    """A step of the demo failed; its own output says why."""


@dataclass(frozen=True, slots=True)
class SampleFeed:
    """Embedded servers that hold the sample feed, and a model trained on it."""

    database_url: str
    redis_url: str
    store: Path

    def serving(self, settings: Settings) -> Settings:
        """The settings at hand, pointed at these servers, with a key for page tokens if they have none."""
        timeline = settings.timeline
        if not timeline.token_key.get_secret_value():
            timeline = timeline.model_copy(update={"token_key": SecretStr(secrets.token_hex())})
        return settings.model_copy(
            update={
                "database": settings.database.model_copy(update={"url": SecretStr(self.database_url)}),
                "cache": settings.cache.model_copy(update={"url": SecretStr(self.redis_url)}),
                "models": settings.models.model_copy(
                    update={"store": str(self.store), "ready_requires_model": True}
                ),
                "timeline": timeline,
            }
        )

    def configuration(self) -> str:
        """A configuration file that points other commands at these servers."""
        places = {"database": ("url", self.database_url), "cache": ("url", self.redis_url)}
        places["models"] = ("store", str(self.store))
        # TOML's basic strings have JSON's escapes.
        lines = [
            f"[{section}]\n{name} = {json.dumps(value, ensure_ascii=False)}\n"
            for section, (name, value) in places.items()
        ]
        return "\n".join(lines)


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
            await server.wait_until_serving()
            target = f"{self.settings.grpc.host}:{server.grpc.port}"
            shown = await self._show_feeds(target, feed.database_url)
            await self._suggest(server, target, feed, shown)
            await asyncio.Event().wait()

    async def _show_feeds(self, target: str, database_url: str) -> "Shown":
        """Prints three users' ranked posts and a timeline, asked for through the client's command line."""
        users, newest = await _audience(database_url)
        for user in users:
            ranking = await _ask(target, "rank", user.id, f"--limit={SHOWN}", f"--posts={_ids(newest)}")
            title = f"the best {SHOWN} of the {CANDIDATES} newest posts, {_origin(ranking)}"
            self._print_posts(f"user {user.id} {user.story()}", title, ranking, newest)
        user = users[0]
        page = await _ask(target, "timeline", user.id, f"--page-size={SHOWN}", "--explain")
        captions = await _captions(database_url, [post["post_id"] for post in page["posts"]])
        self._print_posts(
            f"user {user.id}'s timeline; by id, image and caption: what each adds to the log odds",
            f"the first {SHOWN} of all posts, {_origin(page)}",
            page,
            captions,
        )
        return Shown(user.id, list(newest)[:SHOWN])

    def _print_posts(
        self, heading: str, title: str, answer: dict[str, Any], captions: dict[int, str]
    ) -> None:
        self.out.print(f"\n{heading}")
        self.out.print(_table(title, answer, captions), soft_wrap=False)  # as wide as the terminal

    async def _suggest(self, server: Application, target: str, feed: SampleFeed, shown: "Shown") -> None:
        """Prints where everything is, and what to type next."""
        configuration = self.directory / CONFIGURATION
        await asyncio.to_thread(configuration.write_text, feed.configuration(), encoding="utf-8")
        client, at = _program("animora"), "" if target == "127.0.0.1:50051" else f" --target {target}"
        self.out.print(
            f"\nServing on {target}; metrics: http://{self.settings.http.host}:{server.probes.port}/metrics"
            "\nTry, in another terminal:"
            f"\n  {client} timeline{at} --user {shown.user} --explain"
            f"\n  {client} rank{at} --user {shown.user} --posts {_ids(shown.newest)} --explain"
            f"\n  {client} bench{at} --timeline --cache default --duration 5"
            f"\n  {_program('animora-server')} precompute --config {configuration}"
            "\nCtrl-C stops everything.",
            markup=False,
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """A user whose feed was shown, and some of the newest posts."""

    user: int
    newest: list[int]


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


async def _captions(database_url: str, post_ids: list[int]) -> dict[int, str]:
    """Captions by post id."""
    connection = await asyncpg.connect(database_url)
    try:
        posts = await connection.fetch(CAPTIONS, post_ids)
    finally:
        await connection.close()
    return {row["id"]: row["caption"] for row in posts}


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


async def _ask(target: str, command: str, user: int, *options: str) -> dict[str, Any]:
    """What a command of the client prints of a user as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from animora_client.cli import main; main()", command, "--json"),
        *("--target", target, "--user", str(user), "--timeout", "5", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise DemoFailed(f"animora {command} failed for user {user}; its output above says why")
    answer: dict[str, Any] = json.loads(output)
    return answer


def _table(title: str, answer: dict[str, Any], captions: dict[int, str]) -> Table:
    """Posts by rank with their captions, and with what their terms add up to by part where there are any."""
    parts = [_parts(post.get("terms", {})) for post in answer["posts"]]
    table = Table(title=title, title_justify="left")
    table.add_column("post", justify="right")
    table.add_column("score", justify="right")
    for name in parts[0] if parts else ():
        table.add_column(f"by {name}", justify="right")
    table.add_column("caption")
    for post, of_post in zip(answer["posts"], parts, strict=True):
        terms = (f"{value:+.2f}" for value in of_post.values())
        table.add_row(str(post["post_id"]), f"{post['score']:.4f}", *terms, captions[post["post_id"]])
    return table


def _parts(terms: dict[str, float]) -> dict[str, float]:
    """Terms summed over the model's branches: what each part of a post does in all."""
    parts: dict[str, float] = {}
    for name, value in terms.items():
        if name not in SAME_FOR_ALL_POSTS:
            part = name.rpartition("_")[2]
            parts[part] = parts.get(part, 0.0) + value
    return parts


def _origin(answer: dict[str, Any]) -> str:
    model = f", model {answer['model_version']}" if answer["model_version"] else ""
    return f"by {answer['ranker']}{model}"


def _ids(post_ids: Iterable[int]) -> str:
    return ",".join(map(str, post_ids))


def _program(name: str) -> str:
    """A program of this installation, as it can be typed here."""
    path, here = Path(sys.executable).with_name(name), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else name
