"""Signs ACTIVE and verifies its signature: ECDSA with the keys that sign versions, as `openssl dgst` does."""

from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from animora_artifact.errors import ArtifactRejected, RejectionReason
from animora_artifact.pointer import ACTIVE

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_ALGORITHM = ec.ECDSA(hashes.SHA256())


class KeyPointerCheck:
    """Verifies signatures by a public key; see pointer.PointerCheck."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._public_key = key

    def require_signed(self, content: bytes, signature: bytes) -> None:
        """See PointerCheck."""
        try:
            self._public_key.verify(signature, content, _ALGORITHM)
        except InvalidSignature as error:
            raise ArtifactRejected(
                RejectionReason.SIGNATURE, f"the signature of {ACTIVE} is not by this key"
            ) from error


class KeyPointerSigner(KeyPointerCheck):
    """Signs with a private key, and verifies by its public key; see pointer.PointerSigner."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__(key.public_key())
        self._private_key = key

    def sign(self, content: bytes) -> bytes:
        """See PointerSigner."""
        return self._private_key.sign(content, _ALGORITHM)


def load_check(public_key: Path) -> KeyPointerCheck:
    """Loads a public key from a PEM file. Raises ValueError if the file is not such a key."""
    content, key = _read(public_key), None
    with suppress(ValueError, UnsupportedAlgorithm):
        key = load_pem_public_key(content)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise ValueError(f"{public_key}: not a PEM public key on P-256, P-384 or P-521")
    return KeyPointerCheck(key)


def load_signer(private_key: Path) -> KeyPointerSigner:
    """Loads a private key from a PEM file without a password. Raises ValueError if it is not such a key."""
    content, key = _read(private_key), None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        key = load_pem_private_key(content, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVES):
        raise ValueError(f"{private_key}: not a PEM private key on P-256, P-384 or P-521 without a password")
    return KeyPointerSigner(key)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from error
