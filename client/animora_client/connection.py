"""Where a client connects and how: channel arguments, retries, and what every call carries."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypedDict

from animora_client.tls import Tls
from animora_client.wire import SERVICE

DEFAULT_TARGET = "127.0.0.1:50051"
# Some thirty years: gRPC takes a deadline that its clock cannot tell, as infinity is, for one that is over.
LONGEST_TIMEOUT = 1e9  # seconds
# A backoff that jitter takes below a millisecond leaves the call without a further attempt until its deadline
# (grpc/grpc#41036).
SHORTEST_BACKOFF = 0.002  # seconds

ChannelArguments = list[tuple[str, str | int]]


class CallArguments(TypedDict):
    """What every method of a stub takes beside its message."""

    timeout: float  # seconds
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a call is tried again when a server goes away; ranking changes nothing, so that is safe.

    Attributes:
        max_attempts: The first one included, 1 (never again) to 5 (gRPC's most).
        initial_backoff: Seconds before the second attempt, give or take a fifth, 0.002 or more; then doubled
            each time.
        max_backoff: The most seconds between two attempts.

    Raises:
        ValueError: A number is out of range.
    """

    max_attempts: int = 5
    initial_backoff: float = 0.05
    max_backoff: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 5:
            raise ValueError(f"max_attempts must be 1 to 5, not {self.max_attempts}")
        if not SHORTEST_BACKOFF <= self.initial_backoff <= self.max_backoff:
            raise ValueError(f"initial_backoff must be {SHORTEST_BACKOFF} s or more and at most max_backoff")


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """How the channel behaves; the defaults suit a service that calls Animora.

    Attributes:
        retry: When calls are tried again.
        health_check: Whether calls avoid addresses whose `grpc.health.v1` service says NOT_SERVING. Right
            only where each address is one server: a proxy gives the answer of one of the servers behind it.
            None checks where the target itself lists several addresses
            (`ipv4:10.0.0.1:50051,10.0.0.2:50051`).
        keepalive: Seconds between pings while calls are open; the server takes 10 or more, proxies may want
            more.
        max_message_bytes: The largest reply that is read.
        extra: More gRPC channel arguments; they replace those of the same name made here.
    """

    retry: RetryPolicy = RetryPolicy()
    health_check: bool | None = None
    keepalive: float = 30.0
    max_message_bytes: int = 16 << 20
    extra: tuple[tuple[str, str | int], ...] = ()


DEFAULT_CHANNEL = ChannelOptions()


@dataclass(frozen=True, slots=True)
class Connection:
    """All that both clients know before they connect.

    Attributes:
        target: `host:port`, or any name that gRPC resolves, such as `dns:///ranking.internal:50051`.
        timeout: Seconds a call may take, retries included, where it does not say itself.
        tls: None for plaintext.
        metadata: Sent with every call.
        channel: How the channel behaves.

    Raises:
        ValueError: The timeout is not above 0, or not finite.
    """

    target: str = DEFAULT_TARGET
    timeout: float = 1.0
    tls: Tls | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a token
    channel: ChannelOptions = DEFAULT_CHANNEL

    def __post_init__(self) -> None:
        _checked(self.timeout)

    @property
    def checks_health(self) -> bool:
        """Whether calls avoid addresses that say NOT_SERVING."""
        if self.channel.health_check is not None:
            return self.channel.health_check
        return self.target.startswith(("ipv4:", "ipv6:")) and "," in self.target

    def ranking_arguments(self) -> ChannelArguments:
        """Arguments of the channel that ranks: its calls are retried, and wait for a connection."""
        return self._arguments(
            {
                "grpc.service_config": service_config(self.channel.retry, self.checks_health),
                # The default, 256 KiB, is less than a large request: such a one would never be retried.
                "grpc.per_rpc_retry_buffer_size": 4 << 20,
            }
        )

    def probe_arguments(self) -> ChannelArguments:
        """Arguments of the channel that asks for health: it reaches servers that say NOT_SERVING, too."""
        return self._arguments({})

    def call(self, timeout: float | None, metadata: Mapping[str, str] | None) -> CallArguments:
        """The keywords of one call: None takes the client's timeout; the call's metadata win.

        Raises:
            ValueError: The timeout is not above 0, or not finite.
        """
        merged = {**self.metadata, **(metadata or {})}
        return {
            "timeout": self.timeout if timeout is None else _checked(timeout),
            "metadata": tuple((key.lower(), value) for key, value in merged.items()),
        }

    def _arguments(self, more: Mapping[str, str | int]) -> ChannelArguments:
        arguments: dict[str, str | int] = {
            "grpc.primary_user_agent": f"animora-client/{version('animora-ranking')}",
            "grpc.max_receive_message_length": self.channel.max_message_bytes,
            "grpc.keepalive_time_ms": round(self.channel.keepalive * 1000),
            "grpc.keepalive_timeout_ms": 10_000,
            # A server that comes back is found before the last attempt of a call with the default timeout.
            "grpc.initial_reconnect_backoff_ms": 100,
            "grpc.max_reconnect_backoff_ms": 250,
            # A rollout replaces every address in less than the default of 30 s.
            "grpc.dns_min_time_between_resolutions_ms": 1_000,
        }
        if self.tls is not None and self.tls.server_name:
            arguments["grpc.ssl_target_name_override"] = self.tls.server_name
        # Of two arguments with one name, gRPC takes the first.
        return list({**arguments, **more, **dict(self.channel.extra)}.items())


def service_config(retry: RetryPolicy, checks_health: bool) -> str:
    """The service config as JSON. It has no timeout: in Python clients one there fires too early."""
    # Without a connection calls wait for one until their deadline. Otherwise they fail while one server
    # restarts and the connection to another, which has just restarted, is still being made.
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
            # What a server that goes away says, or what gRPC says in its place.
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
        # Retries stop at 500 failed attempts that no success made up for. A call that succeeds makes up for
        # all of its own, so that retries go on while calls succeed, and do not feed an outage.
        ratio = float(max(1, retry.max_attempts - 1))  # gRPC reads a number without a point as thousandths
        config["retryThrottling"] = {"maxTokens": 1000, "tokenRatio": ratio}
    return json.dumps(config)


def _checked(timeout: float) -> float:
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise ValueError(f"timeout must be above 0 and at most {LONGEST_TIMEOUT:.0f} seconds, not {timeout}")
    return timeout
