"""Bearer tokens and client certificates of callers, and the roles that the file `auth.tokens` grants them.

Both ports check callers by this module. The file holds the SHA-256 of each token. A fast digest suffices, as
a token is 256 random bits, which nobody can guess at any speed; a password would need a slow one.
"""

import hashlib
import json
import secrets
import tomllib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import partial
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Self

import structlog
from pydantic import Field, ValidationError, model_validator

from animora_server.errors import ConfigurationError, PermissionDenied, Unauthenticated
from animora_server.settings import AuthSettings, Settings
from animora_server.settings.network import is_loopback
from animora_server.settings.section import Section, matching, mistakes
from animora_server.watched_files import Contents, WatchedFiles

log = structlog.get_logger(__name__)

OPTION = "auth.tokens"
TOKEN_PREFIX = "animora_"  # lets scanners of repositories and logs recognise a token
SCHEME = "bearer"


class Role(StrEnum):
    """What a caller may do."""

    RANK = "rank"  # the ranking service and reflection
    ADMIN = "admin"  # the admin port: the model service and reflection
    METRICS = "metrics"  # GET /metrics


class Grant(Section):
    """The roles of one caller.

    Attributes:
        name: Of a token: its name in the log. Of a certificate: its subject alternative name, or its common
            name if it has no subject alternative name.
        roles: The roles, at least one.
    """

    name: str = Field(min_length=1)
    roles: frozenset[Role] = Field(min_length=1)


class TokenGrant(Grant):
    """The roles of a token, with the SHA-256 of the token in lower-case hexadecimal digits."""

    sha256: Annotated[str, matching("[0-9a-f]{64}", "must be 64 lower-case hexadecimal digits")]


class AccessList(Section):
    """The content of the file: the tokens and certificates that are valid now."""

    token: tuple[TokenGrant, ...] = ()
    certificate: tuple[Grant, ...] = ()

    @model_validator(mode="after")
    def _check_entries(self) -> Self:
        if not self.token and not self.certificate:
            raise ValueError("holds no [[token]] and no [[certificate]]")
        for kind, keys in (
            ("token", [entry.sha256 for entry in self.token]),
            ("certificate", [entry.name for entry in self.certificate]),
        ):
            if len(set(keys)) < len(keys):
                raise ValueError(f"names one {kind} twice: give all its roles in one [[{kind}]]")
        return self

    def require(self, role: Role, authorization: str | None, certificate_names: Iterable[str] = ()) -> None:
        """Checks that a caller has a role.

        Args:
            role: The role.
            authorization: The value of the header `authorization`; None if there is none. A token, if there
                is one, decides alone.
            certificate_names: The names in the caller's verified certificate.

        Raises:
            Unauthenticated: There is no valid token, and no certificate that the file names.
            PermissionDenied: The caller is known, but lacks the role.
        """
        grants = (
            self._grants_of_certificate(certificate_names)
            if authorization is None
            else self._grants_of_token(authorization)
        )
        if not grants:
            raise Unauthenticated
        if not any(role in grant.roles for grant in grants):
            raise PermissionDenied(role, grants[0].name)

    def _grants_of_token(self, authorization: str) -> Sequence[Grant]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != SCHEME:
            return []
        digest = token_digest(token)
        # Compared in constant time, and with every entry: the time tells nothing about a valid digest.
        return [grant for grant in self.token if compare_digest(grant.sha256, digest)]

    def _grants_of_certificate(self, names: Iterable[str]) -> Sequence[Grant]:
        presented = set(names)
        return [grant for grant in self.certificate if grant.name in presented]


def watch_access_list(settings: AuthSettings) -> WatchedFiles[AccessList] | None:
    """Loads the file, and follows it; None if callers need no credentials.

    Raises:
        ConfigurationError: The file cannot be read, or is invalid.
    """
    if settings.tokens is None:
        return None
    return WatchedFiles("token-reload", {OPTION: settings.tokens}, partial(_parse, settings.tokens))


def warn_about_open_ports(settings: Settings) -> None:
    """Logs a warning if callers beyond this machine need no credentials."""
    if settings.auth.tokens is not None:
        return
    open_ports = {
        "grpc": settings.grpc.tls_client_ca is None and not is_loopback(settings.grpc.host),
        "admin": settings.admin.enabled
        and settings.grpc.tls_client_ca is None
        and not is_loopback(settings.admin.host),
        "http": not is_loopback(settings.http.host),
    }
    if any(open_ports.values()):
        log.warning(
            "auth.tokens is not set: callers need no credentials",
            ports=[port for port, is_open in open_ports.items() if is_open],
        )


def new_token() -> str:
    """A new random token of 256 bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def describe_token(token: str, name: str, roles: Sequence[Role]) -> str:
    """The entry of a token, as TOML.

    Raises:
        ConfigurationError: The name is empty or has characters that are not printable.
    """
    if not name or not name.isprintable():
        raise ConfigurationError("--name: must not be empty, and must have printable characters alone")
    quoted = json.dumps(name, ensure_ascii=False)
    listed = json.dumps([str(role) for role in roles])
    return f'[[token]]\nname = {quoted}\nroles = {listed}\nsha256 = "{token_digest(token)}"\n'


def token_digest(token: str) -> str:
    """The SHA-256 of a token, in lower-case hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _parse(path: Path, contents: Contents) -> AccessList:
    try:
        return AccessList.model_validate(tomllib.loads(contents[OPTION].decode()))
    except ValidationError as error:
        texts = [
            f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}".removeprefix(": ")
            for mistake in mistakes(error)
        ]
        raise ConfigurationError(f"{OPTION}: {path}: {'; '.join(texts)}") from None
    except (ValueError, RecursionError):  # its text may quote the file
        raise ConfigurationError(f"{OPTION}: {path} is not a TOML file") from None
