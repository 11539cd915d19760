"""Pairs of keys in PEM files, as openssl writes them, and what their signatures refuse."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from animora_artifact import ArtifactRejected

AnyKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class KeyPair:
    private: Path
    public: Path


def write_keys(folder: Path, key: AnyKey | None = None, password: bytes | None = None) -> KeyPair:
    """A new pair, on P-256 where no key is given."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(parents=True, exist_ok=True)
    pair = KeyPair(folder / "key.pem", folder / "key.pub.pem")
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pair.private.write_bytes(key.private_bytes(pem, pkcs8, encryption))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    pair.public.write_bytes(key.public_key().public_bytes(pem, public))
    return pair


def refused_signature(act: Callable[[], object]) -> str:
    """The text with which `act` refuses a version, or ACTIVE, because of its signature."""
    with pytest.raises(ArtifactRejected) as refused:
        act()
    assert refused.value.reason == "signature"
    return str(refused.value)
