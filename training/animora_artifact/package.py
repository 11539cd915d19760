"""A version as the bytes of its files, read so that nothing is parsed that was not verified."""

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
    """A version's files.

    Attributes:
        manifest: What the manifest's file says.
        data: The files that the manifest lists, by name.
        manifest_file: The manifest's own bytes.
        signature: The signature's bytes; None where it is not signed.
    """

    manifest: Manifest
    data: Mapping[FileName, bytes]
    manifest_file: bytes
    signature: bytes | None = None

    def files(self) -> dict[str, bytes]:
        """All files in the order in which they are written: the manifest, which makes a version, is last."""
        files: dict[str, bytes] = dict(self.data.items())
        if self.signature is not None:
            files[SIGNATURE] = self.signature
        return {**files, MANIFEST: self.manifest_file}


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """What a version's files may have together to be read.

    Attributes:
        max_bytes: So many bytes.
        set_by: What sets the limit, for those who read of a version that was refused.
    """

    max_bytes: int
    set_by: str


class Source(Protocol):
    """Where one version's files are read from."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """A file's content.

        Raises:
            VersionNotFound: There is no such file.
            ArtifactRejected: It is larger, or no plain file.
            StoreUnavailable: It cannot be read now.
        """
        ...


class SignatureCheck(Protocol):
    """Tells genuine signatures from others; `animora_artifact.signatures` has the one."""

    def signed_digests(self, signature: bytes | None) -> Mapping[str, str]:
        """The SHA-256 of each file that was signed, by name. Raises ArtifactRejected."""
        ...


def pack(artifact: Artifact) -> Package:
    """The files of an artifact; the digests in its manifest are made anew."""
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
    """The artifact that a package holds.

    Raises:
        ArtifactRejected: A file's content is not what its name says, or does not fit the others.
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
    """Reads a version's manifest alone, whoever signed it.

    Raises:
        VersionNotFound: There is no manifest, so no version.
        ArtifactRejected: It is not a valid manifest, or another version's.
        StoreUnavailable: It cannot be read.
    """
    return _parse_manifest(source.read(MANIFEST, MAX_MANIFEST_BYTES), version)


def read_package(
    source: Source, version: str, check: SignatureCheck | None, limit: SizeLimit | None = None
) -> Package:
    """Reads a version: first who signed the manifest, then the manifest, then the files that it lists.

    Args:
        source: Its files.
        version: The name that the store has it under.
        check: Whose signature it must have; None takes a version as it is.
        limit: What the files that the manifest lists may have together; None for no limit.

    Raises:
        VersionNotFound: There is no manifest, so no version.
        ArtifactRejected: It is not signed as it must be, it is too large, or a file is not what the manifest
            says.
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


def digest(content: bytes) -> FileDigest:
    """Size and SHA-256 of a file's content."""
    return FileDigest(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def require_signature(package: Package, check: SignatureCheck) -> None:
    """Checks the signature of a package that is in memory already.

    Raises:
        ArtifactRejected: It is not signed, or not by that key, or something else was signed.
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
