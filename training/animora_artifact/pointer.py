"""The ACTIVE pointer: the active version and its predecessors, changed by compare-and-swap."""

from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Final, Generic, Protocol, Self, TypeVar

from animora_artifact.errors import ActivationLost, ArtifactRejected, StoreUnavailable, VersionNotFound
from animora_artifact.manifest import checked_name, is_name

ACTIVE = "ACTIVE"
MAX_NAMES = 32
MAX_POINTER_BYTES = 4096  # more than 32 names of 64 characters
# Attempts of an unconditional activation while other programs change the pointer.
_ATTEMPTS = 8

Token = TypeVar("Token")


class Anything(Enum):
    """The type of ANYTHING."""

    ANYTHING = "anything"


# Expected version of an unconditional activation.
ANYTHING: Final = Anything.ANYTHING
Expected = str | None | Anything


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of ACTIVE.

    Attributes:
        names: The active version, then the ones active before it, the latest first; at most 32.
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
        """Parses ACTIVE: one name a line, the active version first.

        Raises:
            ArtifactRejected: The file is too long, or its first line is not a version name.
        """
        if len(content) > MAX_POINTER_BYTES:
            content = b""
        active, *past = content.decode("ascii", "replace").strip().split("\n")
        # A damaged history must not affect serving: it is cut at the first invalid name.
        known = takewhile(is_name, past[: MAX_NAMES - 1])
        return cls((checked_name(active), *known))

    def to_bytes(self) -> bytes:
        """The content of ACTIVE."""
        return "".join(f"{name}\n" for name in self.names).encode("ascii")

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


def read_pointer(file: PointerFile[Token]) -> Pointer:
    """Reads the pointer; it is empty if nothing was activated yet. Raises ArtifactRejected."""
    content, _ = file.load()
    return Pointer() if content is None else Pointer.parse(content)


def activate(file: PointerFile[Token], version: str, expected: Expected) -> None:
    """Makes a version the active one.

    Args:
        file: Storage of the pointer.
        version: The version to activate.
        expected: The version that must be active so far, None for none; ANYTHING for no condition.

    Raises:
        ActivationLost: Another version than the expected one is active.
        StoreUnavailable: Other programs keep changing the pointer.
    """
    tried: Pointer | None = None
    for _ in range(_ATTEMPTS):
        content, token = file.load()
        found = _readable(content)
        if tried is not None and found == tried:
            return  # an earlier attempt succeeded, but its response was lost
        if expected is not ANYTHING and found.active != expected:
            raise ActivationLost(found.active)
        if found.active == version:
            return
        tried = found.to(version)
        if file.swap(tried.to_bytes(), token):
            return
    raise StoreUnavailable("other programs keep changing the active pointer: try again")


def roll_back(file: PointerFile[Token], seen: Pointer) -> None:
    """Makes the version active that was active before.

    Args:
        file: Storage of the pointer.
        seen: The pointer that the caller has read.

    Raises:
        VersionNotFound: No version was active before.
        ActivationLost: The pointer has changed since it was read.
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
    if found != seen.back():  # equal: the swap succeeded, but its response was lost
        raise ActivationLost(found.active)


def _readable(content: bytes | None) -> Pointer:
    """The pointer, or an empty one in place of a damaged one."""
    try:
        return Pointer() if content is None else Pointer.parse(content)
    except ArtifactRejected:
        return Pointer()
