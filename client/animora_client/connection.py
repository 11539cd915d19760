"""How a client connects: target, channel arguments, retries, timeouts and metadata."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from animora_client.request import Priority
from animora_client.tls import Tls
from animora_client.token import BearerToken
from animora_client.wire import SERVICE

DEFAULT_TARGET = "127.0.0.1:50051"
# About thirty years: gRPC treats a deadline beyond the range of its clock, such as infinity, as passed.
LONGEST_TIMEOUT = 1e9  # seconds
# If jitter reduces a backoff below a millisecond, gRPC makes no further attempt (grpc/grpc#41036).
SHORTEST_BACKOFF = 0.002  # seconds
AUTHORIZATION = "authorization"
PRIORITY = "x-animora-priority"

MAX_RETRY_TOKENS = 1000  # gRPC's maximum

ChannelArguments = list[tuple[str, str | int]]


class CallArguments(TypedDict):
    """The keyword arguments of every stub method."""

    timeout: float  # seconds
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a call is retried. Retries are safe, because ranking changes nothing on the server.

    Attributes:
        max_attempts: Attempts of a call, 1 (no retry) to 5 (gRPC's maximum).
        initial_backoff: Seconds before the second attempt, 0.002 or more, with 20 % jitter; doubled for each
            further attempt. A call that was refused because of overload is retried after the delay that the
            server names instead, with up to 50 % jitter.
        max_backoff: Seconds between two attempts at most, unless the server names the delay.
        budget: Retries for each call at most, on average, 0.01 to 4, so that retries do not multiply an
            overload. Some are free: 10 of refused calls, and 500 of calls whose server went away.

    Raises:
        ValueError: A number is out of range.
    """

    max_attempts: int = 5
    initial_backoff: float = 0.05
    max_backoff: float = 0.5
    budget: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 5:
            raise ValueError(f"max_attempts must be 1 to 5, not {self.max_attempts}")
        if not SHORTEST_BACKOFF <= self.initial_backoff <= self.max_backoff:
            raise ValueError(f"initial_backoff must be {SHORTEST_BACKOFF} s or more and at most max_backoff")
        if not 0.01 <= self.budget <= 4:
            raise ValueError(f"budget must be 0.01 to 4 retries a call, not {self.budget}")


@dataclass(frozen=True, slots=True)
class Throttling:
    """When calls are held back because the server refuses most of them; see `overload.AdaptiveThrottle`.

    Attributes:
        ratio: Calls to send for each that the server accepts, 1.1 or more: 2 lets the client notice soon that
            the server accepts more.
        window: Seconds in which calls are counted, above 0. After an overload the client needs about twice
            that time until it sends every call again.

    Raises:
        ValueError: A number is out of range.
    """

    ratio: float = 2.0
    window: float = 1.0

    def __post_init__(self) -> None:
        if not 1.1 <= self.ratio < math.inf:
            raise ValueError(f"ratio must be 1.1 or more, and finite, not {self.ratio}")
        if not 0 < self.window < math.inf:
            raise ValueError(f"window must be above 0 seconds, and finite, not {self.window}")


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """Options of the channel; the defaults suit a service that calls Animora.

    Attributes:
        retry: When calls are tried again.
        throttling: When calls are held back; None sends every call.
        health_check: Whether calls avoid addresses whose `grpc.health.v1` service reports NOT_SERVING. Use it
            only if each address is one server: a proxy returns the answer of any server behind it.
            None enables it if the target lists several addresses
            (`ipv4:10.0.0.1:50051,10.0.0.2:50051`).
        keepalive: Seconds between pings while calls are open; the server accepts 10 or more, proxies may
            require more.
        max_message_bytes: The largest reply that is accepted.
        extra: More gRPC channel arguments; they override arguments of the same name.
    """

    retry: RetryPolicy = RetryPolicy()
    throttling: Throttling | None = Throttling()
    health_check: bool | None = None
    keepalive: float = 30.0
    max_message_bytes: int = 16 << 20
    extra: tuple[tuple[str, str | int], ...] = ()


DEFAULT_CHANNEL = ChannelOptions()


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of both clients: the optional fields of `Connection`, which documents them."""

    timeout: float
    tls: Tls | None
    metadata: Mapping[str, str] | None
    channel: ChannelOptions
    token: str | Path | None
    priority: Priority


@dataclass(frozen=True, slots=True)
class Connection:
    """The arguments of both clients, validated.

    Attributes:
        target: `host:port`, or any name that gRPC resolves, such as `dns:///ranking.internal:50051`.
        timeout: Seconds a call may take, including retries, unless the call sets a timeout.
        tls: None for plaintext.
        metadata: Sent with every call.
        channel: Options of the channel.
        token: The bearer token, sent with every call. A `Path` names a file that holds it, which is read
            again when it changes.
        priority: The priority of calls that have none of their own.

    Raises:
        OSError: The file of the token cannot be read.
        ValueError: The timeout is not above 0, or not finite, or the token is malformed.
    """

    target: str = DEFAULT_TARGET
    timeout: float = 1.0
    tls: Tls | None = None
    metadata: Mapping[str, str] | None = field(default=None, repr=False)  # may hold a token
    channel: ChannelOptions = DEFAULT_CHANNEL
    token: str | Path | None = field(default=None, repr=False)
    priority: Priority = Priority.INTERACTIVE
    _bearer: BearerToken | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_timeout(self.timeout)
        bearer = None if self.token is None else BearerToken(self.token)
        object.__setattr__(self, "_bearer", bearer)  # the dataclass is frozen

    @property
    def checks_health(self) -> bool:
        """Whether calls avoid addresses that report NOT_SERVING."""
        if self.channel.health_check is not None:
            return self.channel.health_check
        return self.target.startswith(("ipv4:", "ipv6:")) and "," in self.target

    def ranking_arguments(self) -> ChannelArguments:
        """Channel arguments for ranking: calls are retried, and wait for a connection."""
        return self._arguments(
            {
                "grpc.service_config": service_config(self.channel.retry, self.checks_health),
                # gRPC does not retry a request larger than this; the default is 256 KiB.
                "grpc.per_rpc_retry_buffer_size": 4 << 20,
            }
        )

    def probe_arguments(self) -> ChannelArguments:
        """Channel arguments for health checks, which reach servers that report NOT_SERVING as well."""
        return self._arguments({})

    def call(
        self,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
    ) -> CallArguments:
        """The keyword arguments of one call.

        Args:
            timeout: Seconds; None for the client's timeout.
            metadata: Overrides the client's metadata of the same name, its token if it has `authorization`,
                and the priority if it has `x-animora-priority`.
            priority: None for the client's priority. Interactive is the server's default and is not sent.

        Raises:
            ValueError: The timeout is not above 0, or not finite.
        """
        merged = {} if self._bearer is None else {AUTHORIZATION: self._bearer.header()}
        if (self.priority if priority is None else priority) is Priority.BATCH:
            merged[PRIORITY] = Priority.BATCH.value
        for source in (self.metadata or {}, metadata or {}):
            merged.update((key.lower(), value) for key, value in source.items())
        return {
            "timeout": self.timeout if timeout is None else _check_timeout(timeout),
            "metadata": tuple(merged.items()),
        }

    def _arguments(self, more: Mapping[str, str | int]) -> ChannelArguments:
        arguments: dict[str, str | int] = {
            "grpc.primary_user_agent": f"animora-client/{version('animora-ranking')}",
            "grpc.max_receive_message_length": self.channel.max_message_bytes,
            "grpc.keepalive_time_ms": round(self.channel.keepalive * 1000),
            "grpc.keepalive_timeout_ms": 10_000,
            # A restarted server is found before the last attempt of a call with the default timeout.
            "grpc.initial_reconnect_backoff_ms": 100,
            "grpc.max_reconnect_backoff_ms": 250,
            # The default is 30 s, in which a rollout may replace every address.
            "grpc.dns_min_time_between_resolutions_ms": 1_000,
        }
        if self.tls is not None and self.tls.server_name:
            arguments["grpc.ssl_target_name_override"] = self.tls.server_name
        # Of two arguments with one name, gRPC takes the first.
        return list({**arguments, **more, **dict(self.channel.extra)}.items())


def service_config(retry: RetryPolicy, checks_health: bool) -> str:
    """The gRPC service config as JSON. It sets no timeout, which fires too early in Python clients."""
    # Calls wait for a connection until their deadline. Otherwise they would fail while one server
    # restarts and the connection to another one is still being established.
    method: dict[str, object] = {"name": [{"service": SERVICE}], "waitForReady": True}
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [method]}
    if checks_health:
        config["healthCheckConfig"] = {"serviceName": SERVICE}
    if retry.max_attempts > 1:
        method["retryPolicy"] = {
            "maxAttempts": retry.max_attempts,
            "initialBackoff": f"{retry.initial_backoff:.9f}s",
            "maxBackoff": f"{retry.max_backoff:.9f}s",
            "backoffMultiplier": 2,
            # The codes of a server that shuts down, and of a lost connection.
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
        # Each failed attempt costs a token, and each successful call restores `budget` tokens. Retries stop
        # at half of the tokens: restarts pass, and in an outage retries do not multiply the calls.
        config["retryThrottling"] = {"maxTokens": MAX_RETRY_TOKENS, "tokenRatio": float(retry.budget)}
    return json.dumps(config)


def _check_timeout(timeout: float) -> float:
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise ValueError(f"timeout must be above 0 and at most {LONGEST_TIMEOUT:.0f} seconds, not {timeout}")
    return timeout
