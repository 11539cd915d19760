"""Servers that speak Redis' protocol over TCP: alone, watched by a Sentinel, as a Cluster, behind TLS."""

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio
from redis.asyncio import Redis

from animora_demo.embedded.binaries import find_redis
from animora_demo.embedded.process import ChildProcess, Program, bring_up
from tests.support.fault_proxy import FaultProxy
from tests.support.until import until

SERVICE = "feed"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and a client with all rights."""

    port: int
    client: Redis
    child: ChildProcess


@asynccontextmanager
async def serving(
    directory: Path, *options: str | Path, program: Path | None = None
) -> AsyncIterator[Server]:
    """Starts a server at a free port; the embedded program by default."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    home = directory / str(port)
    home.mkdir()
    words = [*options, *f"--port {port} --bind 127.0.0.1 --dir {home} --appendonly no".split(), "--save", ""]
    command = Program([program or find_redis(), *words], home, home / "log")
    async with redis.asyncio.Redis(port=port) as client, AsyncExitStack() as stack:

        async def answers() -> bool:
            try:
                return bool(await client.ping())
            except redis.exceptions.ConnectionError:
                return False

        child = await bring_up(command, answers)
        stack.push_async_callback(child.stop)
        yield Server(port, client, child)


@asynccontextmanager
async def watched(
    directory: Path, password: str, program: Path | None = None
) -> AsyncIterator[tuple[Server, Server, Server]]:
    """A primary, its replica, and the Sentinel (with a password) that watches them as SERVICE."""
    async with AsyncExitStack() as stack:
        delay = ("--repl-diskless-sync-delay", "0")
        primary = await stack.enter_async_context(serving(directory, *delay, program=program))
        following = ("--replicaof", f"127.0.0.1 {primary.port}")
        replica = await stack.enter_async_context(serving(directory, *delay, *following, program=program))

        await until_replication(replica, master_link_status="up")
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )
        watcher = serving(directory, configuration, "--sentinel", program=program)
        sentinel = await stack.enter_async_context(watcher)

        async def knows_replica() -> bool:
            return bool(await sentinel.client.sentinel_slaves(SERVICE))

        await until(knows_replica)
        await sentinel.client.acl_setuser(
            "watcher", enabled=True, passwords=[f"+{password}"], commands=["+sentinel|masters"]
        )
        yield primary, replica, sentinel


async def until_replication(server: Server, **fields: str) -> None:
    """Waits until the server reports these fields of its replication."""

    async def reports() -> bool:
        return fields.items() <= (await server.client.info("replication")).items()

    await until(reports)


async def replicated(primary: Server, replica: Server) -> None:
    """Waits until the replica has everything that the primary has now."""
    offset = (await primary.client.info("replication"))["master_repl_offset"]

    async def caught_up() -> bool:
        return bool((await replica.client.info("replication"))["slave_repl_offset"] >= offset)

    await until(caught_up)


@asynccontextmanager
async def clustered(directory: Path, program: Path | None = None) -> AsyncIterator[list[Server]]:
    """Three primaries that share the slots."""
    async with AsyncExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-port")
        nodes = [
            await stack.enter_async_context(serving(directory, *options, str(_free_port()), program=program))
            for _ in range(3)
        ]
        for number, (node, (first, last)) in enumerate(
            zip(nodes, ((0, 5460), (5461, 10922), (10923, 16383)), strict=True)
        ):
            await node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            await node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            (bus,) = (await node.client.config_get("cluster-port")).values()
            await nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

        async def agree() -> bool:
            states = [(await node.client.cluster("INFO"))["cluster_state"] for node in nodes]
            return states == ["ok"] * len(nodes)

        await until(agree)
        yield nodes


@asynccontextmanager
async def replica_of(primary: Server, directory: Path) -> AsyncIterator[Server]:
    """A node that joins a Cluster and replicates one of its primaries."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-port")
    async with serving(directory, *options, str(_free_port()), "--repl-diskless-sync-delay", "0") as replica:
        (bus,) = (await primary.client.config_get("cluster-port")).values()
        await replica.client.execute_command("CLUSTER", "MEET", "127.0.0.1", primary.port, bus)
        name = await primary.client.execute_command("CLUSTER", "MYID")

        async def replicates() -> bool:
            try:
                await replica.client.execute_command("CLUSTER", "REPLICATE", name)
            except redis.exceptions.ResponseError:
                return False  # it does not know the primary yet
            return bool((await replica.client.info("replication"))["master_link_status"] == "up")

        await until(replicates)
        yield replica


async def move_slot(slot: int, source: Server, target: Server, nodes: list[Server]) -> None:
    """Moves a slot and its keys from one node of a Cluster to another."""
    names = {
        server.port: await server.client.execute_command("CLUSTER", "MYID") for server in (source, target)
    }
    setting = ("CLUSTER", "SETSLOT", slot)
    await target.client.execute_command(*setting, "IMPORTING", names[source.port])
    await source.client.execute_command(*setting, "MIGRATING", names[target.port])
    keys = await source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
    await source.client.migrate("127.0.0.1", target.port, keys, 0, 10_000)
    for node in (target, *nodes):
        await node.client.execute_command(*setting, "NODE", names[target.port])


@asynccontextmanager
async def behind_tls(port: int, certificates: Path) -> AsyncIterator[int]:
    """The port of a proxy that speaks TLS, with client certificates, for the server at `port`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "leaf.pem", certificates / "leaf.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    async with FaultProxy(port, ssl=context) as proxy:
        yield proxy.port


async def follow(replica: Server, primary: Server) -> None:
    """Makes a server the replica of another, which becomes a primary; no connection is closed."""
    await primary.client.replicaof("NO", "ONE")
    await replica.client.replicaof("127.0.0.1", primary.port)

    await until_replication(replica, master_link_status="up")


def make_certificates(folder: Path) -> None:
    """An authority (ca), and a certificate and key signed by it (leaf) for 127.0.0.1; by openssl."""
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    authority = "-subj /CN=test -keyout ca.key -out ca.pem"
    leaf = (
        "-subj /CN=redis -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
        " -CA ca.pem -CAkey ca.key -keyout leaf.key -out leaf.pem"
    )
    for names in (authority, leaf):
        subprocess.run(f"{request} {names}".split(), cwd=folder, check=True, capture_output=True)


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
