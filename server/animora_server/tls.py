"""Loads and checks the certificate and key of the gRPC port."""

import codecs
import ssl
from dataclasses import dataclass
from pathlib import Path

from animora_server.errors import ConfigurationError
from animora_server.settings import GrpcSettings

# OpenSSL's reasons for a key that does not match the certificate.
KEY_MISMATCH = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


@dataclass(frozen=True, slots=True)
class Identity:
    """The server's certificate chain and private key.

    Attributes:
        certificates: The certificate chain, in PEM.
        key: The private key, in PEM.
    """

    certificates: bytes
    key: bytes


def load_identity(settings: GrpcSettings) -> Identity | None:
    """Loads the certificate chain and key; None if TLS is off.

    Raises:
        ConfigurationError: A file cannot be read, is not valid PEM, or the key does not match.
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
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)  # gRPC rejects a byte order mark
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {path} ({error.strerror})") from error


def _check(certificate: Path, key: Path, identity: Identity) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=identity.certificates.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"grpc.tls_certificate: {certificate} holds no valid PEM certificate"
        ) from error
    try:
        # Without a callback, OpenSSL prompts for the password of an encrypted key; gRPC supports none.
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigurationError(_explain(certificate, key, error.reason)) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"grpc.tls_key: {key} cannot be used: {error}") from error


def _explain(certificate: Path, key: Path, reason: str | None) -> str:
    if not reason:
        return f"grpc.tls_key: {key} holds no valid PEM private key without a password"
    if reason in KEY_MISMATCH:
        return f"grpc.tls_key: {key} is not the key of the certificate in {certificate}"
    return f"grpc.tls_certificate: {certificate} cannot be used ({reason})"


def _no_password() -> str:
    return ""
