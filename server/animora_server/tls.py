"""Loads and checks the certificate, the key and the clients' authority of the gRPC port."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from animora_server.errors import ConfigurationError
from animora_server.settings import GrpcSettings
from animora_server.watched_files import Contents, WatchedFiles, read_files

CERTIFICATE, KEY, CLIENT_CA = "grpc.tls_certificate", "grpc.tls_key", "grpc.tls_client_ca"
# OpenSSL's reasons for a key that does not match the certificate.
KEY_MISMATCH = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


@dataclass(frozen=True, slots=True)
class Identity:
    """The server's certificate chain and private key, and the authority of its clients.

    Attributes:
        certificates: The certificate chain, in PEM.
        key: The private key, in PEM.
        client_ca: The authorities that sign client certificates, in PEM; None if clients need none.
    """

    certificates: bytes
    key: bytes
    client_ca: bytes | None = None


IsUsable = Callable[[Identity], bool]


def load_identity(settings: GrpcSettings, is_usable: IsUsable | None = None) -> Identity | None:
    """Loads the files once; None if TLS is off.

    Args:
        settings: The section `grpc`.
        is_usable: A further check, by the library that uses the files.

    Raises:
        ConfigurationError: A file cannot be read, is not valid PEM, the key does not match, or the further
            check fails.
    """
    files = _files(settings)
    return _parse(files, is_usable, read_files(files)) if files else None


def watch_identity(
    settings: GrpcSettings, is_usable: IsUsable, name: str = "tls-reload"
) -> WatchedFiles[Identity] | None:
    """Loads the files, and follows them in a loop; None if TLS is off. See `load_identity`."""
    files = _files(settings)
    return WatchedFiles(name, files, partial(_parse, files, is_usable)) if files else None


def _files(settings: GrpcSettings) -> dict[str, Path]:
    files = {CERTIFICATE: settings.tls_certificate, KEY: settings.tls_key, CLIENT_CA: settings.tls_client_ca}
    return {option: path for option, path in files.items() if path is not None}


def _parse(files: dict[str, Path], is_usable: IsUsable | None, contents: Contents) -> Identity:
    for option in (CERTIFICATE, CLIENT_CA):
        if option in files:
            _check_certificates(option, files[option], contents[option])
    _check_key(files[CERTIFICATE], files[KEY])
    # OpenSSL reads the pair from the files, so the check holds only for contents that are still in them.
    if read_files(files) != contents:
        raise ConfigurationError(f"{CERTIFICATE}: {files[CERTIFICATE]} or its key is being replaced")
    identity = Identity(contents[CERTIFICATE], contents[KEY], contents.get(CLIENT_CA))
    if is_usable is not None and not is_usable(identity):
        raise ConfigurationError(
            f"{CERTIFICATE}: gRPC cannot use {files[CERTIFICATE]}: its key must be RSA, P-256, P-384 or P-521"
        )
    return identity


def _check_certificates(option: str, path: Path, certificates: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=certificates.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"{option}: {path} holds no valid PEM certificate") from error


def _check_key(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a callback, OpenSSL prompts for the password of an encrypted key; gRPC supports none.
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigurationError(_explain(certificate, key, error.reason)) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{KEY}: {key} cannot be used: {error}") from error


def _explain(certificate: Path, key: Path, reason: str | None) -> str:
    if not reason:
        return f"{KEY}: {key} holds no valid PEM private key without a password"
    if reason in KEY_MISMATCH:
        return f"{KEY}: {key} is not the key of the certificate in {certificate}"
    return f"{CERTIFICATE}: {certificate} cannot be used ({reason})"


def _no_password() -> str:
    return ""
