"""The certificate and key of the gRPC port, checked before anything listens."""

import codecs
import ssl
from dataclasses import dataclass
from pathlib import Path

from animora_server.errors import ConfigurationError
from animora_server.settings import GrpcSettings

# What OpenSSL says of a key that is another certificate's, of the same kind or another.
ANOTHER_KEY = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server proves itself with.

    Attributes:
        certificates: The certificate and those that lead to its authority, in PEM.
        key: The private key, in PEM.
    """

    certificates: bytes
    key: bytes


def load_identity(settings: GrpcSettings) -> Identity | None:
    """The server's certificate chain and key; None where TLS is off.

    Raises:
        ConfigurationError: A file cannot be read, is no such file, or the key is another certificate's.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    identity = Identity(
        _read(settings.tls_certificate, "grpc.tls_certificate"), _read(settings.tls_key, "grpc.tls_key")
    )
    _check(settings.tls_certificate, settings.tls_key, identity)
    return identity


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)  # at which gRPC stops
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {path} ({error.strerror})") from error


def _check(certificate: Path, key: Path, identity: Identity) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=identity.certificates.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"grpc.tls_certificate: {certificate} holds no certificate that can be read, in PEM"
        ) from error
    try:
        # An encrypted key would be asked about on the terminal, and gRPC does not take one.
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigurationError(_why_not(certificate, key, error.reason)) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"grpc.tls_key: {key} cannot be used: {error}") from error


def _why_not(certificate: Path, key: Path, reason: str | None) -> str:
    if not reason:
        return f"grpc.tls_key: {key} holds no private key that can be read, in PEM and without a password"
    if reason in ANOTHER_KEY:
        return f"grpc.tls_key: {key} is not the key of the certificate in {certificate}"
    return f"grpc.tls_certificate: {certificate} cannot be used ({reason})"


def _no_password() -> str:
    return ""
