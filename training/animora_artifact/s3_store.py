"""A model store below a prefix of an S3 bucket."""

from concurrent.futures import ThreadPoolExecutor

from animora_artifact.artifact import Artifact
from animora_artifact.errors import (
    ArtifactError,
    ArtifactRejected,
    RejectionReason,
    StoreUnavailable,
    VersionNotFound,
)
from animora_artifact.manifest import MARKS, Manifest, checked_name, is_name, mark_of
from animora_artifact.package import (
    MANIFEST,
    Package,
    SignatureCheck,
    SizeLimit,
    digest,
    is_signed,
    pack,
    read_manifest,
    read_package,
    unpack,
)
from animora_artifact.pointer import (
    ACTIVE,
    ANYTHING,
    MAX_POINTER_BYTES,
    UNSIGNED,
    Expected,
    Pointer,
    PointerKeys,
    activate,
    read_pointer,
    roll_back,
)
from animora_artifact.s3_bucket import ObjectNotFound, PreconditionFailed, S3Bucket
from animora_artifact.s3_url import S3Place
from animora_artifact.store import VersionListing

MANIFESTS_AT_ONCE = 8


class S3Store:
    """A ModelStore in S3: a version is the objects below PREFIX/VERSION/, the pointer is PREFIX/ACTIVE.

    S3 cannot rename, so a version's objects appear one by one. A version exists once its manifest does, which
    is created last. The object PREFIX/.claims/VERSION holds the digest of the version that is being written,
    so that two programs cannot mix different versions under one name.

    Args:
        place: Location of the store.
        check: Signature check for reading versions; None accepts unsigned versions.
        limit: Maximum total size of a version's files; None for no limit.
        keys: The keys of ACTIVE; by default it is not signed.
    """

    def __init__(
        self,
        place: S3Place,
        check: SignatureCheck | None = None,
        limit: SizeLimit | None = None,
        keys: PointerKeys = UNSIGNED,
    ) -> None:
        self._place = place
        self._bucket = S3Bucket(place)
        self._check = check
        self._limit = limit
        self._keys = keys
        self._pointer = _PointerObject(self._bucket)

    def names(self) -> list[str]:
        """See ModelStore."""
        return [name for name in self._bucket.folders() if is_name(name)]

    def listing(self) -> VersionListing:
        """See ModelStore."""
        with ThreadPoolExecutor(MANIFESTS_AT_ONCE, "s3-manifests") as pool:
            found = [entry for entry in pool.map(self._list_entry, self.names()) if entry is not None]
        return VersionListing.of(found)

    def pointer(self) -> Pointer:
        """See ModelStore."""
        return read_pointer(self._pointer, self._keys)

    def active(self) -> str | None:
        """See ModelStore."""
        return self.pointer().active

    def manifest(self, version: str) -> Manifest:
        """See ModelStore."""
        return read_manifest(_VersionObjects(self._bucket, checked_name(version)), version)

    def read(self, version: str) -> Artifact:
        """See ModelStore."""
        source = _VersionObjects(self._bucket, checked_name(version))
        return unpack(read_package(source, version, self._check, self._limit))

    def is_signed(self, version: str) -> bool:
        """See ModelStore."""
        return is_signed(_VersionObjects(self._bucket, checked_name(version)), self._check)

    def require_writable(self) -> None:
        """See ModelStore; writes the empty object `.writable`."""
        self._bucket.put(".writable", b"")

    def add(self, package: Package) -> Manifest:
        """See ModelStore; completes an interrupted publication of the same version."""
        version = checked_name(package.manifest.version)
        if self._bucket.exists(f"{version}/{MANIFEST}"):
            raise self._exists(version)
        self._claim(version, package)
        for name, content in package.files().items():
            if name != MANIFEST:
                self._bucket.put(f"{version}/{name}", content)
        if not self._create(f"{version}/{MANIFEST}", package.manifest_file):
            raise self._exists(version)
        return package.manifest

    def publish(self, artifact: Artifact) -> Manifest:
        """See ModelStore."""
        return self.add(pack(artifact))

    def is_verified(self, manifest: Manifest) -> bool:
        """See ModelStore."""
        mark = mark_of(manifest)
        try:
            return self._bucket.get(f"{MARKS}/{checked_name(manifest.version)}", len(mark)).content == mark
        except ObjectNotFound:
            return False

    def mark_verified(self, manifest: Manifest) -> None:
        """See ModelStore."""
        self._bucket.put(f"{MARKS}/{checked_name(manifest.version)}", mark_of(manifest))

    def activate(self, version: str, expected: Expected = ANYTHING) -> None:
        """See ModelStore."""
        self.manifest(version)
        activate(self._pointer, version, expected, self._keys)

    def rollback(self, seen: Pointer) -> None:
        """See ModelStore."""
        if seen.previous is not None:
            self.manifest(seen.previous)
        roll_back(self._pointer, seen, self._keys)

    def _list_entry(self, version: str) -> tuple[str, Manifest | None] | None:
        """Name and manifest (None if unreadable) of a version; None for a prefix without a manifest."""
        try:
            return version, self.manifest(version)
        except StoreUnavailable:
            raise
        except VersionNotFound:
            return None
        except ArtifactError:
            return version, None

    def _claim(self, version: str, package: Package) -> None:
        key = f".claims/{version}"
        if not self._create(key, digest(package.manifest_file).sha256.encode()):
            raise StoreUnavailable(
                f"{self._place}: something else has begun to be published as {version}; use another name, or "
                f"delete {version}/ and {key} where that was given up"
            )

    def _create(self, key: str, content: bytes) -> bool:
        """Creates an object; returns whether it has this content now."""
        try:
            self._bucket.create(key, content)
        except PreconditionFailed:
            # An earlier request may have succeeded without a response.
            try:
                return self._bucket.get(key, len(content)).content == content
            except ObjectNotFound:  # deleted since
                return False
        return True

    def _exists(self, version: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self._place}: the version {version} exists already")


class _VersionObjects:
    """One version's objects; see package.Source."""

    def __init__(self, bucket: S3Bucket, version: str) -> None:
        self._bucket = bucket
        self._version = version

    def read(self, name: str, max_bytes: int) -> bytes:
        """See package.Source."""
        try:
            content = self._bucket.get(f"{self._version}/{name}", max_bytes).content
        except ObjectNotFound as error:
            raise VersionNotFound(f"there is no {self._version}/{name}") from error
        if content is None:
            raise ArtifactRejected(RejectionReason.SIZE, f"{name} has more than {max_bytes} bytes")
        return content


class _PointerObject:
    """The object ACTIVE, replaced by conditional writes. The token is its ETag, None if it does not exist."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket

    def load(self) -> tuple[bytes | None, str | None]:
        """See PointerFile."""
        try:
            found = self._bucket.get(ACTIVE, MAX_POINTER_BYTES)
        except ObjectNotFound:
            return None, None
        # An object that is too large is treated as damaged.
        return found.content or b"", found.tag

    def swap(self, content: bytes, token: str | None) -> bool:
        """See PointerFile."""
        try:
            if token is None:
                self._bucket.create(ACTIVE, content)
            else:
                self._bucket.replace(ACTIVE, content, token)
        except PreconditionFailed:
            return False
        return True
