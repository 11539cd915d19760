"""Signs versions and ACTIVE, and checks signatures, with the optional package `model-signing`."""

from pathlib import Path
from typing import Protocol

from animora_artifact.errors import ArtifactRejected
from animora_artifact.package import Package, SignatureCheck
from animora_artifact.pointer import PointerKeys

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


def pointer_keys(public_key: Path | None = None, private_key: Path | None = None) -> PointerKeys:
    """The keys of ACTIVE.

    Args:
        public_key: A PEM file with the public key, as for `signature_check`; None for none.
        private_key: A PEM file with the private key, as for `signer`; None for none.

    Raises:
        ValueError: A file is not such a key, they are not one pair, or model-signing is not installed.
    """
    if public_key is None and private_key is None:
        return PointerKeys()
    try:
        from animora_artifact.pointer_keys import load_check, load_signer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    check = None if public_key is None else load_check(public_key)
    signer = None if private_key is None else load_signer(private_key)
    if check is not None and signer is not None:
        try:
            check.require_signed(b"", signer.sign(b""))
        except ArtifactRejected as error:
            raise ValueError(f"{private_key}: not the private key of {public_key}") from error
    return PointerKeys(check, signer)
