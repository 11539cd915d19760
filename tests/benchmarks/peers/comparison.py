"""Measures all sides in turns: Animora's, and those of the peers whose servers start."""

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
from tests.benchmarks.peers.generator import TIMEOUT, Exchange
from tests.benchmarks.peers.protocols import BatchRank, Rank
from tests.benchmarks.peers.queries import Posts, Query, QuerySampler, users_without_blocks
from tests.benchmarks.peers.report import BATCH_RANK, RANK, Figures, batch_side
from tests.benchmarks.peers.servers import Peer, pause, peer_server, resume, resumed
from tests.benchmarks.peers.sides import BATCH, SINGLE, Side
from tests.benchmarks.processes import Server, animora_server
from tests.benchmarks.serving import server_options

CALLS = 32  # distinct calls of each side
CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the measurement.

    Attributes:
        rounds: Number of turns of each side.
        seconds: Length of a turn.
        candidates: Number of candidates of a user.
        workers: Number of processes of Animora's server.
    """

    rounds: int
    seconds: int
    candidates: int
    workers: int


@dataclass(frozen=True, slots=True)
class Result:
    """The figures by side, and the reasons of missing peers."""

    sides: dict[str, Figures]
    left_out: dict[str, str]


async def measure(out: Console, feed: SampleFeed, plan: Plan, peers: Sequence[Peer]) -> Result:
    """Starts all servers, checks every reply for CHECK_SECONDS, and then measures.

    Raises:
        RuntimeError: A call failed, or a reply was wrong.
        ExceptionGroup: Likewise, by our own generator.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        queries = await prepare(feed, folder, plan.candidates)
        # The deadline is the generator's timeout: no peer gives up sooner.
        options = {**server_options(feed), "GRPC_DEFAULT_TIMEOUT": f"{TIMEOUT:g}"}
        animora = await stack.enter_async_context(animora_server(options, workers=plan.workers))
        pause(animora)
        stack.callback(resume, animora)  # a stopped process cannot end
        sides = {
            RANK: Side.of(animora, Rank(), SINGLE, queries),
            BATCH_RANK: Side.of(animora, BatchRank(), BATCH, queries),
        }
        left_out = {}
        for peer in peers:
            first = Exchange(peer.wire, queries[:1])
            try:
                server = await stack.enter_async_context(peer_server(peer, folder, first))
            except RuntimeError as error:
                left_out[peer.name] = str(error).partition("\n")[0]
                out.print(f"{peer.name} is left out: {error}", markup=False)
            else:
                pause(server)
                out.print(f"{peer.name} answers")
                sides |= _sides_of(peer, server, queries)

        def failed(name: str, error: Exception) -> None:
            if sides[name].server is animora:
                raise error
            left_out[name] = str(error).partition("\n")[0]
            out.print(f"{name} is left out from here on: {error}", markup=False)

        turns = {}
        for name, side in sides.items():
            try:
                await _resumed(side, partial(side.check_replies, CHECK_SECONDS))
            except Exception as error:  # of any kind: it concerns that side alone
                failed(name, error)
            else:
                turns[name] = partial(_resumed, side, partial(side.turn, plan.seconds))
        medians = await in_turns(out, turns, plan.rounds, failed)
    return Result({name: Figures.of(sides[name], turn) for name, turn in medians.items()}, left_out)


async def prepare(feed: SampleFeed, folder: Path, candidates: int) -> list[Query]:
    """Writes the input of PostRanker; returns queries with the artifact's own rankings.

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
    return list(islice(QuerySampler(artifact, posts, users).queries(candidates, seed=0), CALLS * BATCH.users))


def _sides_of(peer: Peer, server: Server, queries: Sequence[Query]) -> dict[str, Side]:
    sides = {peer.name: Side.of(server, peer.wire, SINGLE, queries)}
    if peer.batch_wire is not None:
        sides[batch_side(peer.name)] = Side.of(server, peer.batch_wire, BATCH, queries)
    return sides


async def _resumed(side: Side, turn: Callable[[], Awaitable[Turn]]) -> Turn:
    try:
        async with resumed(side.server, side.wire.route, side.exchanges[0]):
            return await turn()
    except Exception as error:
        error.add_note(f"It was the turn of {side.server.name}.")
        raise
