"""Signing versions and checking signatures, for those who have installed what that needs."""

from pathlib import Path

from animora_artifact.package import Package, SignatureCheck

_MISSING = "signatures need the extra signing: pip install 'animora[signing]'"


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


def sign(package: Package, private_key: Path) -> Package:
    """The package with a signature, in `model.sig`, over all its other files.

    Args:
        package: The version; a signature that it has is replaced.
        private_key: A PEM file with the private key, on P-256, P-384 or P-521, without a password.

    Raises:
        ValueError: It is none, or model-signing is not installed.
        StoreUnavailable: There is no room for a temporary copy of the version.
    """
    try:
        from animora_artifact.openssf import sign_package  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    return sign_package(package, private_key)
