"""Signatures by OpenSSF's `model-signing` with elliptic-curve keys, offline.

A signature is a Sigstore bundle whose in-toto statement lists the SHA-256 of each file of a version. It is
interchangeable with those of the commands `model_signing sign key` and `model_signing verify key`.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from model_signing import hashing, signing

# Internal modules: the public interface needs the whole version in a folder before it checks anything.
from model_signing._signing.sign_ec_key import Verifier
from model_signing._signing.sign_sigstore_pb import Signature

from animora_artifact.errors import ArtifactRejected, RejectionReason, StoreUnavailable
from animora_artifact.package import SIGNATURE, Package

# Errors that the library raises for files that are not a key or a bundle; it documents none.
_NOT_SUCH_A_FILE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, UnsupportedAlgorithm,
)  # fmt: skip


class KeyCheck:
    """Checks that a signature was made with one private key; see package.SignatureCheck.

    Args:
        public_key: A PEM file with the public key, on P-256, P-384 or P-521.

    Raises:
        ValueError: The file is not such a key.
    """

    def __init__(self, public_key: Path) -> None:
        try:
            self._verifier = Verifier(public_key)
        except OSError as error:
            raise ValueError(f"{public_key}: cannot be read: {error.strerror}") from error
        except _NOT_SUCH_A_FILE as error:
            raise ValueError(f"{public_key}: not a PEM public key on P-256, P-384 or P-521") from error

    def signed_digests(self, signature: bytes | None) -> Mapping[str, str]:
        """See SignatureCheck. Also raises StoreUnavailable if there is no room for a temporary file."""
        if signature is None:
            raise ArtifactRejected(RejectionReason.SIGNATURE, f"it is not signed: there is no {SIGNATURE}")
        try:
            with tempfile.NamedTemporaryFile() as file:  # the library reads files only
                file.write(signature)
                file.flush()
                signed = self._verifier.verify(Signature.read(Path(file.name)))
        except OSError as error:
            raise StoreUnavailable(f"no signature can be checked: {error.strerror}") from error
        except InvalidSignature as error:
            raise ArtifactRejected(RejectionReason.SIGNATURE, f"{SIGNATURE} is not by this key") from error
        except _NOT_SUCH_A_FILE as error:
            raise ArtifactRejected(
                RejectionReason.SIGNATURE, f"{SIGNATURE} is not by this key, or no signature"
            ) from error
        return {
            resource.identifier: resource.digest.digest_hex
            for resource in signed.resource_descriptors()
            if resource.digest.algorithm == "sha256"
        }


class KeySigner:
    """Signs versions with a private key; see signatures.Signer.

    Args:
        private_key: A PEM file with the key, on P-256, P-384 or P-521, without a password.

    Raises:
        ValueError: The file is not such a key.
    """

    def __init__(self, private_key: Path) -> None:
        self._config = signing.Config()  # type: ignore[no-untyped-call]
        try:
            self._config.use_elliptic_key_signer(private_key=private_key)
        except OSError as error:
            raise ValueError(f"{private_key}: cannot be read: {error.strerror}") from error
        except _NOT_SUCH_A_FILE as error:
            raise ValueError(
                f"{private_key}: not a PEM private key on P-256, P-384 or P-521 without a password"
            ) from error
        hashes = hashing.Config()  # type: ignore[no-untyped-call]
        self._config.set_hashing_config(hashes.use_file_serialization(hashing_algorithm="sha256"))

    def sign(self, package: Package) -> Package:
        """See Signer."""
        try:
            with tempfile.TemporaryDirectory(prefix="animora-signing-") as directory:
                folder, signature = Path(directory, package.manifest.version), Path(directory, SIGNATURE)
                folder.mkdir()
                for name, content in replace(package, signature=None).files().items():
                    (folder / name).write_bytes(content)
                self._config.sign(folder, signature)
                return replace(package, signature=signature.read_bytes())
        except OSError as error:
            raise StoreUnavailable(f"cannot sign {package.manifest.version}: {error.strerror}") from error
