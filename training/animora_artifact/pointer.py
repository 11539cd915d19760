"""The ACTIVE pointer: the active version and its predecessors, changed by compare-and-swap, perhaps signed.

In a signed ACTIVE an empty line and two more lines follow the names: `signed-at:`, the time of the signature,
and `signature:`, in base64, of everything before that line.
"""

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import takewhile
from typing import Final, Generic, Protocol, Self, TypeVar

from animora_artifact.errors import (
    ActivationLost,
    ArtifactRejected,
    RejectionReason,
    SignerMissing,
    StoreUnavailable,
    VersionNotFound,
)
from animora_artifact.manifest import checked_name, is_name

ACTIVE = "ACTIVE"
MAX_NAMES = 32
MAX_POINTER_BYTES = 4096  # more than 32 names of 64 characters and a signature
SIGNED_AT, SIGNATURE = "signed-at: ", b"signature: "
# The least difference between the times of two signatures.
_TICK = timedelta(microseconds=1)
# Attempts of an unconditional activation while other programs change the pointer.
_ATTEMPTS = 8

Token = TypeVar("Token")


class Anything(Enum):
    """The type of ANYTHING."""

    ANYTHING = "anything"


# Expected version of an unconditional activation.
ANYTHING: Final = Anything.ANYTHING
Expected = str | None | Anything


class PointerCheck(Protocol):
    """Verifies the signature of ACTIVE; `animora_artifact.pointer_keys` has the implementation."""

    def require_signed(self, content: bytes, signature: bytes) -> None:
        """Raises ArtifactRejected if the signature of the content is not by the key."""
        ...


class PointerSigner(PointerCheck, Protocol):
    """Signs ACTIVE, and verifies signatures by the same key."""

    def sign(self, content: bytes) -> bytes:
        """The signature of the content."""
        ...


@dataclass(frozen=True, slots=True)
class PointerKeys:
    """The keys of ACTIVE.

    Attributes:
        check: Verifies the signature of what is read; None accepts an unsigned ACTIVE if there is no signer.
        signer: Signs what is written; None writes an unsigned ACTIVE.
    """

    check: PointerCheck | None = None
    signer: PointerSigner | None = None

    @property
    def reader(self) -> PointerCheck | None:
        """Verifies what is read."""
        return self.check or self.signer

    def require_signer(self, content: bytes | None) -> None:
        """Checks that a new ACTIVE would be signed if the old one is, or if readers check it.

        Raises:
            SignerMissing: There is no signer, but one is needed.
        """
        if self.signer is None and (self.check is not None or _signature_of(content or b"") is not None):
            raise SignerMissing


UNSIGNED: Final = PointerKeys()


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of ACTIVE.

    Attributes:
        names: The active version, then the ones active before it, the latest first; at most 32.
        signed_at: The time of the signature, later than those of all before; None if it is not verified.
    """

    names: tuple[str, ...] = ()
    signed_at: datetime | None = None

    @property
    def active(self) -> str | None:
        """The version that servers load."""
        return self.names[0] if self.names else None

    @property
    def previous(self) -> str | None:
        """The version that a rollback makes active."""
        return self.names[1] if len(self.names) > 1 else None

    @classmethod
    def parse(cls, content: bytes, check: PointerCheck | None = None) -> Self:
        """Verifies and parses ACTIVE.

        Raises:
            ArtifactRejected: The file is too long, not signed by the key, or its first line is not a version
                name.
        """
        if len(content) > MAX_POINTER_BYTES:
            content = b""
        signature = _signature_of(content)
        if check is not None:
            if signature is None:
                raise ArtifactRejected(RejectionReason.SIGNATURE, f"{ACTIVE} is not signed")
            check.require_signed(*signature)
        text = content.decode("ascii", "replace").strip()
        signed_at = None if check is None else _signed_at(text)
        active, *past = text.split("\n")
        # A damaged history must not affect serving: it is cut at the first invalid name.
        known = takewhile(is_name, past[: MAX_NAMES - 1])
        return cls((checked_name(active), *known), signed_at)

    def to_bytes(self, signer: PointerSigner | None = None) -> bytes:
        """The content of ACTIVE, signed if there is a time and a signer."""
        names = "".join(f"{name}\n" for name in self.names)
        if signer is None or self.signed_at is None:
            return names.encode("ascii")
        content = f"{names}\n{SIGNED_AT}{self.signed_at.isoformat()}\n".encode("ascii")
        return content + SIGNATURE + b64encode(signer.sign(content)) + b"\n"

    def to(self, version: str) -> Self:
        """The pointer after an activation."""
        return type(self)((version, *self.names)[:MAX_NAMES])

    def back(self) -> Self:
        """The pointer after a rollback, without the version that was active."""
        return type(self)(self.names[1:])


class PointerFile(Protocol, Generic[Token]):
    """Storage of ACTIVE with compare-and-swap."""

    def load(self) -> tuple[bytes | None, Token]:
        """Returns the content, None if the file does not exist, and a token of this state."""
        ...

    def swap(self, content: bytes, token: Token) -> bool:
        """Atomically replaces the content if the file still has the token's state; returns whether it did."""
        ...


def read_pointer(file: PointerFile[Token], keys: PointerKeys = UNSIGNED) -> Pointer:
    """Reads the pointer; it is empty if nothing was activated yet. Raises ArtifactRejected."""
    content, _ = file.load()
    return Pointer() if content is None else Pointer.parse(content, keys.reader)


def activate(
    file: PointerFile[Token], version: str, expected: Expected, keys: PointerKeys = UNSIGNED
) -> None:
    """Makes a version the active one.

    Args:
        file: Storage of the pointer.
        version: The version to activate.
        expected: The version that must be active so far, None for none; ANYTHING for no condition.
        keys: The keys of the pointer.

    Raises:
        ActivationLost: Another version than the expected one is active.
        SignerMissing: The new pointer has to be signed, but `keys` has no signer.
        StoreUnavailable: Other programs keep changing the pointer.
    """
    tried: bytes | None = None
    for _ in range(_ATTEMPTS):
        content, token = file.load()
        if tried is not None and content == tried:
            return  # an earlier attempt succeeded, but its response was lost
        keys.require_signer(content)
        found = _readable(content, keys)
        if expected is not ANYTHING and found.active != expected:
            raise ActivationLost(found.active)
        if found.active == version:
            return
        tried = _encoded(found.to(version), found, keys)
        if file.swap(tried, token):
            return
    raise StoreUnavailable("other programs keep changing the active pointer: try again")


def roll_back(file: PointerFile[Token], seen: Pointer, keys: PointerKeys = UNSIGNED) -> None:
    """Makes the version active that was active before.

    Args:
        file: Storage of the pointer.
        seen: The pointer that the caller has read.
        keys: The keys of the pointer.

    Raises:
        VersionNotFound: No version was active before.
        ActivationLost: The pointer has changed since it was read.
        SignerMissing: The new pointer has to be signed, but `keys` has no signer.
    """
    if seen.previous is None:
        raise VersionNotFound(
            f"no version is known to have been active before {seen.active}: name one with `activate`"
            if seen.active
            else "no version is active"
        )
    content, token = file.load()
    found = _readable(content, keys)
    if found != seen:
        raise ActivationLost(found.active)
    keys.require_signer(content)
    tried = _encoded(seen.back(), seen, keys)
    if file.swap(tried, token):
        return
    content, _ = file.load()
    if content != tried:  # equal: the swap succeeded, but its response was lost
        raise ActivationLost(_readable(content, keys).active)


def _readable(content: bytes | None, keys: PointerKeys) -> Pointer:
    """The pointer, or an empty one in place of a damaged one."""
    try:
        return Pointer() if content is None else Pointer.parse(content, keys.reader)
    except ArtifactRejected:
        return Pointer()


def _encoded(pointer: Pointer, replaced: Pointer, keys: PointerKeys) -> bytes:
    """A new ACTIVE. Its time is later than that of the one it replaces, even if the clock is behind."""
    now, before = datetime.now(UTC), replaced.signed_at
    time = now if before is None else max(now, before + _TICK)
    return replace(pointer, signed_at=time).to_bytes(keys.signer)


def _signature_of(content: bytes) -> tuple[bytes, bytes] | None:
    """The signed part of ACTIVE and its signature, empty where it is malformed; None if there is none."""
    signed, mark, encoded = content.rpartition(b"\n" + SIGNATURE)
    if not mark:
        return None
    try:
        return signed + b"\n", b64decode(encoded.removesuffix(b"\n"), validate=True)
    except binascii.Error:
        return signed + b"\n", b""


def _signed_at(text: str) -> datetime:
    """The time in a signed ACTIVE. Raises ArtifactRejected if there is none with a time zone."""
    lines = (line for line in text.split("\n") if line.startswith(SIGNED_AT))
    try:
        return datetime.fromisoformat(next(lines, "").removeprefix(SIGNED_AT)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ArtifactRejected(RejectionReason.SIGNATURE, f"{ACTIVE} has no time of its signature") from error
