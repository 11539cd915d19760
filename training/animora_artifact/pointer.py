"""The ACTIVE pointer: which version is active, which were before, and how it is moved if nobody else did."""

from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Final, Generic, Protocol, Self, TypeVar

from animora_artifact.errors import ActivationLost, ArtifactRejected, StoreUnavailable, VersionNotFound
from animora_artifact.manifest import checked_name, is_name

ACTIVE = "ACTIVE"
MAX_NAMES = 32
MAX_POINTER_BYTES = 4096  # more than 32 names of 64 characters
# How often the pointer may have moved under one unconditional activation.
_ATTEMPTS = 8

Token = TypeVar("Token")


class Anything(Enum):
    """The type of ANYTHING."""

    ANYTHING = "anything"


# What a caller expects to be active who does not care.
ANYTHING: Final = Anything.ANYTHING
Expected = str | None | Anything


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of ACTIVE.

    Attributes:
        names: The active version, then those that were active before it, the latest first; at most 32.
    """

    names: tuple[str, ...] = ()

    @property
    def active(self) -> str | None:
        """The version that servers load."""
        return self.names[0] if self.names else None

    @property
    def previous(self) -> str | None:
        """The version that a rollback makes active."""
        return self.names[1] if len(self.names) > 1 else None

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Reads ACTIVE: a name a line. A file of one line, without a past, is a pointer too.

        Raises:
            ArtifactRejected: It is too long, or its first line is no version's name.
        """
        if len(content) > MAX_POINTER_BYTES:
            content = b""  # whatever it is, it holds no name
        active, *past = content.decode("ascii", "replace").strip().split("\n")
        # What serves must not depend on the past, so that ends where it cannot be read.
        known = takewhile(is_name, past[: MAX_NAMES - 1])
        return cls((checked_name(active), *known))

    def to_bytes(self) -> bytes:
        """The content of ACTIVE."""
        return "".join(f"{name}\n" for name in self.names).encode("ascii")

    def to(self, version: str) -> Self:
        """The pointer after an activation."""
        return type(self)((version, *self.names)[:MAX_NAMES])

    def back(self) -> Self:
        """The pointer after a rollback: the version that was active is forgotten."""
        return type(self)(self.names[1:])


class PointerFile(Protocol, Generic[Token]):
    """Where a store keeps ACTIVE."""

    def load(self) -> tuple[bytes | None, Token]:
        """Its content, None where it does not exist, and a token of this very state."""
        ...

    def swap(self, content: bytes, token: Token) -> bool:
        """Replaces the content at once, if the file is still in the token's state; says whether it was."""
        ...


def read_pointer(file: PointerFile[Token]) -> Pointer:
    """The pointer; one without names where nothing was ever activated. Raises ArtifactRejected."""
    content, _ = file.load()
    return Pointer() if content is None else Pointer.parse(content)


def activate(file: PointerFile[Token], version: str, expected: Expected) -> None:
    """Points at a version.

    Args:
        file: ACTIVE.
        version: Which one.
        expected: The version that must be active until then, None for none; ANYTHING takes what is there.

    Raises:
        ActivationLost: Another version is active than was expected.
        StoreUnavailable: Others moved the pointer again and again.
    """
    tried: Pointer | None = None
    for _ in range(_ATTEMPTS):
        content, token = file.load()
        found = _readable(content)
        if tried is not None and found == tried:
            return  # it was written, and only the answer was lost
        if expected is not ANYTHING and found.active != expected:
            raise ActivationLost(found.active)
        if found.active == version:
            return
        tried = found.to(version)
        if file.swap(tried.to_bytes(), token):
            return
    raise StoreUnavailable("the active pointer is being moved by others all the time: try again")


def roll_back(file: PointerFile[Token], seen: Pointer) -> None:
    """Points at the version that was active before.

    Args:
        file: ACTIVE.
        seen: The pointer as the caller has seen it.

    Raises:
        VersionNotFound: No version was active before.
        ActivationLost: The pointer is another by now.
    """
    if seen.previous is None:
        raise VersionNotFound(
            f"no version is known to have been active before {seen.active}: name one with `activate`"
            if seen.active
            else "no version is active"
        )
    content, token = file.load()
    found = _readable(content)
    if found != seen:
        raise ActivationLost(found.active)
    if file.swap(seen.back().to_bytes(), token):
        return
    found = _readable(file.load()[0])
    if found != seen.back():  # else it was written, and only the answer was lost
        raise ActivationLost(found.active)


def _readable(content: bytes | None) -> Pointer:
    """The pointer that an activation goes on from: one that cannot be read is replaced."""
    try:
        return Pointer() if content is None else Pointer.parse(content)
    except ArtifactRejected:
        return Pointer()
