"""A version as the bytes of its files; each file is verified before it is parsed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from animora_artifact.artifact import Artifact
from animora_artifact.errors import ArtifactRejected, RejectionReason, VersionNotFound
from animora_artifact.golden import Golden
from animora_artifact.manifest import FileDigest, FileName, Manifest
from animora_artifact.vocabulary import Vocabulary

MODEL: FileName = "model.ts"
VOCABULARY: FileName = "vocabulary.npz"
GOLDEN: FileName = "golden.npz"
COMPILED: FileName = "score.so"
REQUIRED = (MODEL, VOCABULARY, GOLDEN)
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
MAX_MANIFEST_BYTES = 1 << 20
MAX_SIGNATURE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """The files of a version.

    Attributes:
        manifest: The parsed manifest.
        data: Files listed in the manifest, by name.
        manifest_file: Bytes of the manifest.
        signature: Bytes of the signature; None for an unsigned version.
    """

    manifest: Manifest
    data: Mapping[FileName, bytes]
    manifest_file: bytes
    signature: bytes | None = None

    def files(self) -> dict[str, bytes]:
        """All files in the order of writing; the manifest, which makes a version complete, is last."""
        files: dict[str, bytes] = dict(self.data.items())
        if self.signature is not None:
            files[SIGNATURE] = self.signature
        return {**files, MANIFEST: self.manifest_file}


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """Maximum total size of a version's files.

    Attributes:
        max_bytes: The limit in bytes.
        set_by: Name of the option that sets the limit, for error texts.
    """

    max_bytes: int
    set_by: str


class Source(Protocol):
    """Reads the files of one version."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """Reads a file of at most `max_bytes`.

        Raises:
            VersionNotFound: The file does not exist.
            ArtifactRejected: The file is larger, or not a regular file.
            StoreUnavailable: The file cannot be read now.
        """
        ...


class SignatureCheck(Protocol):
    """Verifies signatures; `animora_artifact.signatures` has the implementation."""

    def signed_digests(self, signature: bytes | None) -> Mapping[str, str]:
        """Verifies a signature; returns the SHA-256 of each signed file, by name. Raises ArtifactRejected."""
        ...


def pack(artifact: Artifact) -> Package:
    """Encodes an artifact as files, with new digests in the manifest."""
    data: dict[FileName, bytes] = {
        MODEL: artifact.model,
        VOCABULARY: artifact.vocabulary.to_npz(),
        GOLDEN: artifact.golden.to_npz(),
    }
    if artifact.compiled is not None:
        data[COMPILED] = artifact.compiled
    files = {name: digest(content) for name, content in data.items()}
    manifest = artifact.manifest.model_copy(update={"files": files})
    return Package(manifest, data, manifest.to_json())


def unpack(package: Package) -> Artifact:
    """Decodes the files of a package.

    Raises:
        ArtifactRejected: A file is invalid, or does not fit the manifest.
    """
    artifact = Artifact(
        manifest=package.manifest,
        model=package.data[MODEL],
        vocabulary=Vocabulary.from_npz(package.data[VOCABULARY]),
        golden=Golden.from_npz(package.data[GOLDEN]),
        compiled=package.data.get(COMPILED),
    )
    artifact.check()
    return artifact


def read_manifest(source: Source, version: str) -> Manifest:
    """Reads a version's manifest, without checking a signature.

    Raises:
        VersionNotFound: There is no manifest, so no version.
        ArtifactRejected: The manifest is invalid, or that of another version.
        StoreUnavailable: The manifest cannot be read.
    """
    return _parse_manifest(source.read(MANIFEST, MAX_MANIFEST_BYTES), version)


def read_package(
    source: Source, version: str, check: SignatureCheck | None, limit: SizeLimit | None = None
) -> Package:
    """Reads and verifies a version: the signature first, then the manifest, then the files that it lists.

    Args:
        source: Reads the files.
        version: Name of the version in the store.
        check: Signature check; None accepts unsigned versions.
        limit: Maximum total size of the listed files; None for no limit.

    Raises:
        VersionNotFound: There is no manifest, so no version.
        ArtifactRejected: The signature is missing or invalid, the version is too large, or a file does not
            match the manifest.
        StoreUnavailable: A file cannot be read.
    """
    manifest_file = source.read(MANIFEST, MAX_MANIFEST_BYTES)
    try:
        signature = source.read(SIGNATURE, MAX_SIGNATURE_BYTES)
    except VersionNotFound:
        signature = None
    signed = None if check is None else check.signed_digests(signature)
    if signed is not None:
        _require_signed(MANIFEST, digest(manifest_file), signed)
    manifest = _parse_manifest(manifest_file, version)
    for name in REQUIRED:
        if name not in manifest.files:
            raise ArtifactRejected(RejectionReason.MANIFEST, f"files: {name} is missing")
    if signed is not None:
        for name, expected in manifest.files.items():
            _require_signed(name, expected, signed)
    size = sum(expected.size for expected in manifest.files.values())
    if limit is not None and size > limit.max_bytes:
        raise ArtifactRejected(
            RejectionReason.TOO_LARGE,
            f"its files have {size} bytes together; {limit.set_by} allows {limit.max_bytes}",
        )
    data = {name: _read_verified(source, name, expected) for name, expected in manifest.files.items()}
    return Package(manifest, data, manifest_file, signature)


def is_signed(source: Source, check: SignatureCheck | None) -> bool:
    """Whether a version has a signature; with a check, whether its manifest is signed by the key.

    Raises:
        StoreUnavailable: A file cannot be read.
    """
    try:
        signature = source.read(SIGNATURE, MAX_SIGNATURE_BYTES)
        if check is None:
            return True
        _require_signed(
            MANIFEST, digest(source.read(MANIFEST, MAX_MANIFEST_BYTES)), check.signed_digests(signature)
        )
    except (VersionNotFound, ArtifactRejected):
        return False
    return True


def digest(content: bytes) -> FileDigest:
    """Size and SHA-256 of a file's content."""
    return FileDigest(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def require_signature(package: Package, check: SignatureCheck) -> None:
    """Checks the signature of a package in memory.

    Raises:
        ArtifactRejected: The signature is missing, by another key, or of other files.
    """
    signed = check.signed_digests(package.signature)
    for name, content in package.files().items():
        if name != SIGNATURE:
            _require_signed(name, digest(content), signed)


def _require_signed(name: str, found: FileDigest, signed: Mapping[str, str]) -> None:
    if signed.get(name) != found.sha256:
        raise ArtifactRejected(RejectionReason.SIGNATURE, f"{name} is not the file that was signed")


def _parse_manifest(content: bytes, version: str) -> Manifest:
    manifest = Manifest.parse(content)
    if manifest.version != version:
        raise ArtifactRejected(
            RejectionReason.MANIFEST, f"version {manifest.version} in a folder of another name"
        )
    return manifest


def _read_verified(source: Source, name: FileName, expected: FileDigest) -> bytes:
    try:
        content = source.read(name, expected.size)
    except VersionNotFound as error:
        raise ArtifactRejected(RejectionReason.SIZE, f"{name} is missing") from error
    if len(content) != expected.size:
        raise ArtifactRejected(RejectionReason.SIZE, f"{name} has {len(content)} bytes, not {expected.size}")
    if digest(content).sha256 != expected.sha256:
        raise ArtifactRejected(RejectionReason.DIGEST, f"{name} does not match its SHA-256")
    return content
