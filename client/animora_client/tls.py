"""TLS of the client: trusted authorities, and the client's certificate."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of an encrypted connection, PEM-encoded.

    Attributes:
        root_certificates: Trusted authorities; None for gRPC's default roots.
        certificate_chain: The client's certificate, for mutual TLS.
        private_key: The key of that certificate.
        server_name: The expected name in the server's certificate; empty for the target's host.

    Raises:
        ValueError: Only one of certificate and key is given.
    """

    root_certificates: bytes | None = None
    certificate_chain: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("a client certificate needs its private key: give both or neither")

    @classmethod
    def from_files(
        cls,
        root_certificates: Path | str | None = None,
        certificate_chain: Path | str | None = None,
        private_key: Path | str | None = None,
        server_name: str = "",
    ) -> "Tls":
        """Reads the PEM files.

        Raises:
            OSError: A file cannot be read.
            ValueError: Only one of certificate and key is given.
        """
        return cls(_read(root_certificates), _read(certificate_chain), _read(private_key), server_name)

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials of a secure channel."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
