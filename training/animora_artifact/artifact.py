"""A version on disk: written so that it is whole or absent, read so that nothing unverified is parsed."""

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from animora_artifact.errors import ArtifactRejected, RejectionReason, StoreUnavailable, VersionNotFound
from animora_artifact.golden import Golden
from animora_artifact.manifest import FileDigest, FileName, Manifest
from animora_artifact.vocabulary import Vocabulary

MODEL: FileName = "model.ts"
VOCABULARY: FileName = "vocabulary.npz"
GOLDEN: FileName = "golden.npz"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version in memory, every byte checked against its manifest.

    Attributes:
        manifest: What the version is.
        model: The TorchScript module's bytes; `animora_artifact.network` loads them.
        vocabulary: Id → row.
        golden: Recorded inputs and probabilities.
    """

    manifest: Manifest
    model: bytes
    vocabulary: Vocabulary
    golden: Golden


def digest(data: bytes) -> FileDigest:
    """Size and SHA-256 of a file's content."""
    return FileDigest(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def write_artifact(artifact: Artifact, folder: Path) -> Manifest:
    """Writes a version into a folder that does not exist yet; it appears whole or not at all.

    Args:
        artifact: The version; the digests in its manifest are made anew.
        folder: Where; its parent is created.

    Returns:
        The manifest as written.

    Raises:
        StoreUnavailable: The folder exists, or cannot be written.
    """
    contents: dict[FileName, bytes] = {
        MODEL: artifact.model,
        VOCABULARY: artifact.vocabulary.to_npz(),
        GOLDEN: artifact.golden.to_npz(),
    }
    manifest = artifact.manifest.model_copy(
        update={"files": {name: digest(content) for name, content in contents.items()}}
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder.parent))
        try:
            staging.chmod(0o755)
            for name, content in contents.items():
                _write_durably(staging / name, content)
            _write_durably(staging / MANIFEST, manifest.to_json())
            staging.rename(folder)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except OSError as error:
        raise StoreUnavailable(f"cannot write the version {manifest.version}: {error.strerror}") from error
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Reads a version's manifest without its files.

    Raises:
        VersionNotFound: There is no manifest, so no version.
        ArtifactRejected: It is not a valid manifest, or names another version than its folder.
        StoreUnavailable: It cannot be read.
    """
    manifest = Manifest.parse(_read_plain_file(folder / MANIFEST, MAX_MANIFEST_BYTES))
    if manifest.version != folder.name:
        raise ArtifactRejected(
            RejectionReason.MANIFEST, f"version {manifest.version} in a folder of another name"
        )
    return manifest


def read_artifact(folder: Path) -> Artifact:
    """Reads a version; each file's size, type and digest are checked before it is parsed.

    Raises:
        VersionNotFound: There is no manifest, so no version.
        ArtifactRejected: A file is not what the manifest says.
        StoreUnavailable: A file cannot be read.
    """
    manifest = read_manifest(folder)
    contents = {name: _read_verified(folder / name, manifest, name) for name in (MODEL, VOCABULARY, GOLDEN)}
    vocabulary = Vocabulary.from_npz(contents[VOCABULARY])
    dimensions = manifest.dimensions
    rows = (len(vocabulary.user_ids) + 1, len(vocabulary.post_ids) + 1)
    if rows != (dimensions.users, dimensions.posts):
        raise ArtifactRejected(
            RejectionReason.DIMENSIONS,
            f"the vocabulary has {rows} user and post rows, "
            f"the manifest {(dimensions.users, dimensions.posts)}",
        )
    return Artifact(
        manifest=manifest,
        model=contents[MODEL],
        vocabulary=vocabulary,
        golden=Golden.from_npz(contents[GOLDEN]),
    )


def _read_verified(path: Path, manifest: Manifest, name: FileName) -> bytes:
    expected = manifest.files.get(name)
    if expected is None:
        raise ArtifactRejected(RejectionReason.MANIFEST, f"files: {name} is missing")
    try:
        content = _read_plain_file(path, expected.size)
    except VersionNotFound as error:
        raise ArtifactRejected(RejectionReason.SIZE, f"{name} is missing") from error
    found = digest(content)
    if found.size != expected.size:
        raise ArtifactRejected(RejectionReason.SIZE, f"{name} has {found.size} bytes, not {expected.size}")
    if found.sha256 != expected.sha256:
        raise ArtifactRejected(RejectionReason.DIGEST, f"{name} does not match its SHA-256")
    return content


def _read_plain_file(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file through no link, and no more than one byte past what it may hold."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise VersionNotFound(f"there is no {path.parent.name}/{path.name}") from error
    except OSError as error:
        if path.is_symlink():
            raise ArtifactRejected(RejectionReason.FILE_TYPE, f"{path.name} is a link") from error
        raise StoreUnavailable(f"cannot read {path.name}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactRejected(RejectionReason.FILE_TYPE, f"{path.name} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            content = file.read(max_bytes + 1)
        except OSError as error:
            raise StoreUnavailable(f"cannot read {path.name}: {error.strerror}") from error
    if len(content) > max_bytes:
        raise ArtifactRejected(RejectionReason.SIZE, f"{path.name} has more than {max_bytes} bytes")
    return content


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
