"""How a client proves whom it talks to, and who it is."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of an encrypted connection, PEM-encoded.

    Attributes:
        root_certificates: Authorities to trust; None for those that gRPC ships with.
        certificate_chain: The client's own certificate, where the server asks for one.
        private_key: The key of that certificate.
        server_name: The name to expect in the server's certificate; empty for the target's host.

    Raises:
        ValueError: Of certificate and key only one is given.
    """

    root_certificates: bytes | None = None
    certificate_chain: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("a client certificate and its private key go together: give both or neither")

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
            ValueError: Of certificate and key only one is given.
        """
        return cls(_read(root_certificates), _read(certificate_chain), _read(private_key), server_name)

    def credentials(self) -> grpc.ChannelCredentials:
        """For a secure channel."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
