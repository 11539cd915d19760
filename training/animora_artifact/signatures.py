"""Signing versions and checking signatures, for those who have installed what that needs."""

from pathlib import Path
from typing import Protocol

from animora_artifact.package import Package, SignatureCheck

_MISSING = "signatures need the extra signing: pip install 'animora-ranking[signing]'"


class Signer(Protocol):
    """Signs versions."""

    def sign(self, package: Package) -> Package:
        """The package with a signature over all its files, in place of one that it has.

        Raises:
            StoreUnavailable: There is no room for a temporary copy of the version.
        """
        ...


def signature_check(public_key: Path) -> SignatureCheck:
    """A check that versions were signed with the private key of this public one.

    Args:
        public_key: A PEM file with the public key, on P-256, P-384 or P-521.

    Raises:
        ValueError: It is none, or model-signing is not installed.
    """
    try:
        from animora_artifact.openssf import KeyCheck  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    return KeyCheck(public_key)


def signer(private_key: Path) -> Signer:
    """A signer with a key.

    Args:
        private_key: A PEM file with the private key, on P-256, P-384 or P-521, without a password.

    Raises:
        ValueError: It is none, or model-signing is not installed.
    """
    try:
        from animora_artifact.openssf import KeySigner  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    return KeySigner(private_key)
