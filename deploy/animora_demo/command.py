"""The command `demo`: checks its preconditions, starts everything, and prints a few feeds."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from animora_demo.feeds import DemoAudience, captions_of, find_audience, origin, posts_table
from animora_demo.sample import DemoFailed, SampleFeed, sample_feed
from animora_process.signals import ending_signals
from animora_server.addresses import require_free
from animora_server.app import Application, running
from animora_server.errors import ConfigurationError
from animora_server.inference.device import resolve_device
from animora_server.settings import Settings
from animora_server.tls import load_identity

CANDIDATES = 60
SHOWN = 5
CONFIGURATION = "animora.toml"  # in the demo's directory, for the commands that the demo suggests
# A module of each extra that the demo's child processes use.
MODULES = {"cli": "matplotlib", "training": "implicit"}


@dataclass(frozen=True, slots=True)
class Demo:
    """Runs the demo in a directory, whose data and model later runs reuse."""

    directory: Path
    settings: Settings
    out: Console

    async def run(self) -> int:
        """Runs until a signal ends it. Returns the exit status."""
        program = asyncio.create_task(self._serve())
        for number in ending_signals():
            asyncio.get_running_loop().add_signal_handler(number, program.cancel)
        with suppress(asyncio.CancelledError):
            await program
        return 0

    async def _serve(self) -> None:
        await asyncio.to_thread(check_preconditions, self.settings)
        async with (
            sample_feed(self.directory, self.out) as feed,
            running(feed.serving(self.settings)) as server,
        ):
            await server.listen()
            target = f"{self.settings.grpc.host}:{server.grpc.port}"
            audience = await find_audience(feed.database_url, CANDIDATES)
            await self._show_feeds(target, feed, audience)
            await self._suggest(server, target, feed, audience)
            await asyncio.Event().wait()

    async def _show_feeds(self, target: str, feed: SampleFeed, audience: DemoAudience) -> None:
        """Prints three users' ranked posts and one timeline, requested with the client's command line."""
        posts = f"--posts={_ids(audience.newest)}"
        for user in audience.users:
            ranking = await _run_client(target, "rank", user.id, f"--limit={SHOWN}", posts)
            title = f"the best {SHOWN} of the {CANDIDATES} newest posts, {origin(ranking)}"
            self._print_posts(f"user {user.id} {user.story()}", title, ranking, audience.newest)
        user = audience.users[0]
        page = await _run_client(target, "timeline", user.id, f"--page-size={SHOWN}", "--explain")
        captions = await captions_of(feed.database_url, [post["post_id"] for post in page["posts"]])
        self._print_posts(
            f"user {user.id}'s timeline; by id, image and caption: what each adds to the log odds",
            f"the first {SHOWN} of all posts, {origin(page)}",
            page,
            captions,
        )

    def _print_posts(
        self, heading: str, title: str, answer: dict[str, Any], captions: dict[int, str]
    ) -> None:
        self.out.print(f"\n{heading}")
        self.out.print(posts_table(title, answer, captions), soft_wrap=False)  # as wide as the terminal

    async def _suggest(
        self, server: Application, target: str, feed: SampleFeed, audience: DemoAudience
    ) -> None:
        """Prints the addresses, and commands to try."""
        configuration = self.directory / CONFIGURATION
        await asyncio.to_thread(configuration.write_text, feed.configuration(), encoding="utf-8")
        client, at = _program("animora-client"), "" if target == "127.0.0.1:50051" else f" --target {target}"
        user, posts = audience.users[0].id, _ids(list(audience.newest)[:SHOWN])
        self.out.print(
            f"\nServing on {target}; metrics: http://{self.settings.http.host}:{server.probes.port}/metrics"
            "\nTry, in another terminal:"
            f"\n  {client} timeline{at} --user {user} --explain"
            f"\n  {client} rank{at} --user {user} --posts {posts} --explain"
            f"\n  {client} bench{at} --timeline --cache default --duration 5"
            f"\n  {_program('animora-server')} precompute --config {configuration}"
            "\nCtrl-C stops everything.",
            markup=False,
        )


async def _run_client(target: str, command: str, user: int, *options: str) -> dict[str, Any]:
    """Runs a command of the client for a user, and returns its JSON output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from animora_client.cli import main; main()", command, "--json"),
        *("--target", target, "--user", str(user), "--timeout", "5", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise DemoFailed(f"animora-client {command} failed for user {user}; its output above says why")
    answer: dict[str, Any] = json.loads(output)
    return answer


def _ids(post_ids: Iterable[int]) -> str:
    return ",".join(map(str, post_ids))


def _program(name: str) -> str:
    """The path of a program of this installation, relative to the current folder if possible."""
    path, here = Path(sys.executable).with_name(name), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else name


def check_preconditions(settings: Settings) -> None:
    """Checks what would otherwise fail after minutes of training.

    Raises:
        ConfigurationError: A port is taken, a certificate or the device is unusable, an extra is not
            installed, or the demo's unsigned model or its calls would be refused.
    """
    for section, addressed in (("grpc", settings.grpc), ("http", settings.http)):
        if addressed.port:
            require_free(section, addressed.host, addressed.port)
    load_identity(settings.grpc)
    resolve_device(settings.scorer.device)
    if settings.models.verify_key is not None:
        raise ConfigurationError("models.verify_key: the demo does not sign its model; unset the option")
    if settings.auth.tokens is not None:
        raise ConfigurationError("auth.tokens: the demo calls its server without a token; unset the option")
    missing = [extra for extra, module in MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"the demo needs: pip install 'animora-ranking[{','.join(missing)}]'")
