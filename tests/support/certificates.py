"""Authorities, and the certificates that they sign, in memory and in files."""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVER = "127.0.0.1"


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


@dataclass
class Authority:
    """An authority with a new key."""

    name: str = "authority"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self._certificate = self._sign(self.key, self.name, [], is_authority=True)

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, in PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, common_name: str, *names: x509.GeneralName, curve: type[ec.EllipticCurve] = ec.SECP256R1
    ) -> Issued:
        """A new certificate with subject alternative names."""
        key = ec.generate_private_key(curve())
        certificate = self._sign(key, common_name, names)
        return Issued(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def issue_server(self, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> Issued:
        """A new certificate for 127.0.0.1."""
        return self.issue("ranking", x509.IPAddress(ip_address(SERVER)), curve=curve)

    def _sign(self, key, common_name, names, *, is_authority=False) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass(frozen=True)
class SecretFolder:
    """A folder whose files change at once, as in a mounted secret of Kubernetes."""

    folder: Path

    def replace(self, files: dict[str, bytes]) -> None:
        """Replaces all files by one rename."""
        version = self.folder / f"..{len(list(self.folder.iterdir()))}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(Path("..data") / name)
        new = self.folder / "..new"
        new.symlink_to(version.name)
        new.rename(self.folder / "..data")


def served_certificate(port: int) -> bytes:
    """The certificate that a server presents in a new handshake, in PEM."""
    return ssl.get_server_certificate((SERVER, port)).encode()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
