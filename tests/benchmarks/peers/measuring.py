"""All sides in turns: Animora's, and those of the peers whose servers start."""

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import asyncpg
from rich.console import Console

from animora_artifact import open_store
from animora_demo import SampleFeed
from tests.benchmarks.load import Turn, in_turns
from tests.benchmarks.peers.asking import TIMEOUT, Exchange
from tests.benchmarks.peers.protocols import BatchRank, Rank
from tests.benchmarks.peers.questions import Inquirer, Posts, Question, users_without_blocks
from tests.benchmarks.peers.report import BATCH_RANK, RANK, Figures, many
from tests.benchmarks.peers.servers import Peer, at_work, peer_server, rest, wake
from tests.benchmarks.peers.sides import BATCH, SINGLE, Side
from tests.benchmarks.processes import Server, animora_server
from tests.benchmarks.serving import server_options

CALLS = 32  # different ones of each side
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Turns of each side.
        seconds: Of a turn.
        candidates: Of a user.
        workers: Processes of Animora's server.
    """

    rounds: int
    seconds: int
    candidates: int
    workers: int


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured, by side, and why peers are missing."""

    sides: dict[str, Figures]
    left_out: dict[str, str]


async def measure(out: Console, feed: SampleFeed, plan: Plan, peers: Sequence[Peer]) -> Result:
    """Starts all servers, has every reply looked at for a while, and then measures.

    Raises:
        RuntimeError: A call failed, or a reply was wrong.
        ExceptionGroup: Likewise.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        questions = await prepare(feed, folder, plan.candidates)
        # A call has as long as our generator waits: no peer gives up sooner.
        options = {**server_options(feed), "GRPC_DEFAULT_TIMEOUT": f"{TIMEOUT:g}"}
        animora = await stack.enter_async_context(animora_server(options, workers=plan.workers))
        rest(animora)
        stack.callback(wake, animora)  # else it could not end
        sides = {
            RANK: Side.of(animora, Rank(), SINGLE, questions),
            BATCH_RANK: Side.of(animora, BatchRank(), BATCH, questions),
        }
        left_out = {}
        for peer in peers:
            first = Exchange(peer.wire, questions[:1])
            try:
                server = await stack.enter_async_context(peer_server(peer, folder, first))
            except RuntimeError as error:
                left_out[peer.name] = str(error).partition("\n")[0]
                out.print(f"{peer.name} is left out: {error}", markup=False)
            else:
                rest(server)
                out.print(f"{peer.name} answers")
                sides |= _sides_of(peer, server, questions)

        def failed(name: str, error: Exception) -> None:
            if sides[name].server is animora:
                raise error
            left_out[name] = str(error).partition("\n")[0]
            out.print(f"{name} is left out from here on: {error}", markup=False)

        turns = {}
        for name, side in sides.items():
            try:
                await _at_work(side, partial(side.look, LOOK_SECONDS))
            except Exception as error:  # whatever it is, it is that side's
                failed(name, error)
            else:
                turns[name] = partial(_at_work, side, partial(side.turn, plan.seconds))
        medians = await in_turns(out, turns, plan.rounds, failed)
    return Result({name: Figures.of(sides[name], turn) for name, turn in medians.items()}, left_out)


async def prepare(feed: SampleFeed, folder: Path, candidates: int) -> list[Question]:
    """Writes what PostRanker reads; returns the questions, with the answers of the artifact.

    Raises:
        RuntimeError: The feed has no active model.
    """
    store = open_store(str(feed.store))
    version = store.active()
    if version is None:
        raise RuntimeError(f"{feed.store} has no active version")
    artifact = store.read(version)
    connection = await asyncpg.connect(feed.database_url)
    try:
        posts = await Posts.read(connection, artifact)
        users = await users_without_blocks(connection)
    finally:
        await connection.close()
    posts.save(artifact, folder)
    return list(islice(Inquirer(artifact, posts, users).questions(candidates, seed=0), CALLS * BATCH.users))


def _sides_of(peer: Peer, server: Server, questions: Sequence[Question]) -> dict[str, Side]:
    sides = {peer.name: Side.of(server, peer.wire, SINGLE, questions)}
    if peer.many is not None:
        sides[many(peer.name)] = Side.of(server, peer.many, BATCH, questions)
    return sides


async def _at_work(side: Side, turn: Callable[[], Awaitable[Turn]]) -> Turn:
    try:
        async with at_work(side.server, side.wire.route, side.exchanges[0]):
            return await turn()
    except Exception as error:
        error.add_note(f"It was the turn of {side.server.name}.")
        raise
