"""The sections `grpc`, `admin`, `http` and `auth`: the ports of the server, and who may call them."""

from ipaddress import ip_address
from pathlib import Path

from pydantic import Field, model_validator

from animora_server.settings.section import DAY, HOUR, INT32, Section

MAX_WORKERS = 256


def is_loopback(host: str) -> bool:
    """Whether `host` is a loopback address or `localhost`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class GrpcSettings(Section):
    """The gRPC port, its TLS, its limits, and how it shuts down."""

    host: str = Field(
        default="127.0.0.1", description="address to listen on; beyond loopback needs TLS or `insecure`"
    )
    port: int = Field(default=50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(
        default=1,
        ge=1,
        le=MAX_WORKERS,
        description="processes that share the port (`serve`), each with its own catalog",
    )
    pin_workers: bool = Field(default=False, description="pin each worker to one core, in rotation (Linux)")
    insecure: bool = Field(default=False, description="allow an address beyond loopback without TLS")
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the server's certificate chain"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the server's private key")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities of client certificates; clients must then present one",
    )
    max_message_bytes: int = Field(
        default=2 << 20, ge=1024, le=INT32, description="bytes of the largest request"
    )
    max_metadata_bytes: int = Field(
        default=16 << 10, ge=1024, le=16 << 20, description="bytes of the largest request metadata"
    )
    max_rows_in_flight: int = Field(
        default=1_000_000,
        ge=1,
        le=10**9,
        description="candidates in flight before a call is refused (RESOURCE_EXHAUSTED); an explained post "
        "counts as 50",
    )
    max_calls_in_flight: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="calls in flight before one is refused; under overload the server lowers it by itself",
    )
    max_waiting_calls: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description="calls that wait for room under overload before gRPC sheds further ones (CANCELLED)",
    )
    max_concurrent_streams: int = Field(
        default=100,
        ge=1,
        le=INT32,
        description="calls that one connection may have open; a client holds back further ones",
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="connections per worker; further ones are closed at once. Lowered at start where the "
        "process may open fewer files",
    )
    handshake_timeout: float = Field(
        default=10.0,
        ge=1,
        le=HOUR,
        description="seconds a new connection has for TLS and for HTTP/2's first frames",
    )
    io_niceness: int = Field(
        default=10,
        ge=0,
        le=19,
        description="how much lower the priority of gRPC's I/O threads is than the event loop's (Linux's "
        "`nice`)",
    )
    default_timeout: float = Field(
        default=0.5, gt=0.001, le=HOUR, description="seconds a call may take when the client sets no deadline"
    )
    ready_delay: float = Field(
        default=1.0,
        ge=0,
        le=HOUR,
        description="seconds at start from SERVING until /readyz says 200, in which clients connect before a "
        "rollout stops the next server",
    )
    drain_delay: float = Field(
        default=1.0,
        ge=0,
        le=HOUR,
        description="seconds at shutdown between reporting NOT_SERVING and refusing new calls",
    )
    drain_grace: float = Field(
        default=10.0, ge=0, le=HOUR, description="seconds that calls in flight have to finish at shutdown"
    )
    max_connection_age: float = Field(
        default=300.0,
        ge=1,
        le=7 * DAY,
        description="seconds before a connection is closed with GOAWAY, so that the client reconnects",
    )

    @model_validator(mode="after")
    def _check_binding(self) -> "GrpcSettings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be set together: set both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if not is_loopback(self.host) and self.tls_certificate is None and not self.insecure:
            raise ValueError(
                f"host {self.host} is beyond loopback and TLS is off: set tls_certificate and tls_key, "
                "or insecure = true"
            )
        return self


class AdminSettings(Section):
    """The admin port, where operators list and activate models; its TLS and limits are those of `grpc`."""

    enabled: bool = Field(default=False, description="listen on the admin port; needs `models.store`")
    host: str = Field(
        default="127.0.0.1",
        description="address of the admin port; beyond loopback needs TLS (of `grpc`) or `insecure`",
    )
    port: int = Field(default=50052, ge=0, le=65535, description="admin port; 0 takes a free one")
    insecure: bool = Field(default=False, description="allow an address beyond loopback without TLS")
    sign_key: Path | None = Field(
        default=None,
        description="PEM file with the private key that ActivateModel signs ACTIVE with; needed with "
        "`models.verify_key`",
    )


class HttpSettings(Section):
    """The HTTP port of metrics and probes."""

    host: str = Field(
        default="127.0.0.1",
        description="address of /metrics, /livez and /readyz; beyond loopback needs `insecure`",
    )
    port: int = Field(
        default=9464, ge=0, le=65535, description="port of /metrics, /livez and /readyz; 0 takes a free one"
    )
    insecure: bool = Field(
        default=False, description="allow an address beyond loopback: there is no TLS on this port"
    )


class AuthSettings(Section):
    """The credentials that callers need."""

    tokens: Path | None = Field(
        default=None,
        description="TOML file with the callers' tokens (hashed) and certificate names, and their roles; "
        "without it callers need none",
    )
