"""Signs versions and checks signatures, with the optional package `model-signing`."""

from pathlib import Path
from typing import Protocol

from animora_artifact.package import Package, SignatureCheck

_MISSING = "signatures need the extra signing: pip install 'animora-ranking[signing]'"


class Signer(Protocol):
    """Signs versions."""

    def sign(self, package: Package) -> Package:
        """The package with a new signature over all its files.

        Raises:
            StoreUnavailable: There is no room for a temporary copy of the version.
        """
        ...


def signature_check(public_key: Path) -> SignatureCheck:
    """A check that versions were signed with the private key of a public key.

    Args:
        public_key: A PEM file with the public key, on P-256, P-384 or P-521.

    Raises:
        ValueError: The file is not such a key, or model-signing is not installed.
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
        ValueError: The file is not such a key, or model-signing is not installed.
    """
    try:
        from animora_artifact.openssf import KeySigner  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    return KeySigner(private_key)
