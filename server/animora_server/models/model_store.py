"""Opens the model store of the settings, and withholds native code that nobody vouches for."""

from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from animora_artifact import (
    Artifact,
    ArtifactRejected,
    ModelStore,
    Pointer,
    SizeLimit,
    VersionSource,
    open_store,
    pointer_keys,
    signature_check,
)
from animora_server.errors import ConfigurationError
from animora_server.models.memory import memory_limit
from animora_server.settings import ModelSettings

log = structlog.get_logger(__name__)


def open_models(settings: ModelSettings) -> VersionSource | None:
    """Opens the model store; None if `models.store` is empty.

    With `models.verify_key` the store reads only signed versions, and only a signed ACTIVE. Native code is
    read only from signed versions, or from any version with `models.trusted`.

    Raises:
        ConfigurationError: The store's URL or a key cannot be used, or a model is required and no store is
            set.
    """
    if not settings.store:
        if settings.ready_requires_model:
            raise ConfigurationError("models.ready_requires_model needs a model to load: set models.store")
        return None
    vouched_by = (
        "models.verify_key" if settings.verify_key else "models.trusted" if settings.trusted else None
    )
    return NativeCodeGuard(_open(settings), vouched_by)


def open_writable_models(settings: ModelSettings, sign_key: Path | None) -> ModelStore:
    """Opens the model store for changes of ACTIVE, which are signed if there is a key.

    Raises:
        ConfigurationError: The store's URL or a key cannot be used, or the keys are not a pair.
    """
    return _open(settings, sign_key)


def _open(settings: ModelSettings, sign_key: Path | None = None) -> ModelStore:
    public_key = settings.active_verify_key or settings.verify_key
    try:
        check = signature_check(settings.verify_key) if settings.verify_key else None
    except ValueError as error:
        raise ConfigurationError(f"models.verify_key: {error}") from error
    try:
        keys = pointer_keys(public_key)
    except ValueError as error:
        raise ConfigurationError(f"models.active_verify_key: {error}") from error
    try:
        keys = pointer_keys(public_key, sign_key)
    except ValueError as error:
        raise ConfigurationError(f"admin.sign_key: {error}") from error
    try:
        return open_store(settings.store, check, size_limit(settings, memory_limit()), keys)
    except ValueError as error:
        raise ConfigurationError(f"models.store: {error}") from error


def readable_active(store: ModelStore) -> str | None:
    """The version that `ACTIVE` names; None if it is not signed by the key, or damaged.

    Raises:
        StoreUnavailable: The store cannot be read.
    """
    try:
        return store.active()
    except ArtifactRejected:
        return None


def size_limit(settings: ModelSettings, memory: int) -> SizeLimit:
    """The limit for the total size of a version's files: `models.max_bytes`, or less if memory is short.

    Memory holds the files and the network built from them, and both again in the preflight process.

    Args:
        settings: `max_bytes` and `preflight` are read.
        memory: Bytes that this process and its children may use.
    """
    copies, share = (4, "a quarter") if settings.preflight else (2, "half")
    if settings.max_bytes <= memory // copies:
        return SizeLimit(settings.max_bytes, "models.max_bytes")
    return SizeLimit(memory // copies, f"{share} of the {memory} bytes of memory")


@dataclass(frozen=True, slots=True)
class NativeCodeGuard:
    """A VersionSource that leaves out native code unless an option vouches for it.

    Digests detect damage, not an attacker who can write to the store, and machine code runs with the server's
    rights.

    Attributes:
        store: The model store.
        vouched_by: The option that vouches for native code, for the log; None to leave the code out.
    """

    store: VersionSource
    vouched_by: str | None

    def pointer(self) -> Pointer:
        """See VersionSource."""
        return self.store.pointer()

    def active(self) -> str | None:
        """See VersionSource."""
        return self.store.active()

    def read(self, version: str) -> Artifact:
        """See VersionSource."""
        artifact = self.store.read(version)
        if artifact.compiled is None:
            return artifact
        if self.vouched_by is None:
            log.warning(
                "compiled code is not loaded",
                version=version,
                reason="the version is not signed: sign versions and set models.verify_key, or set "
                "models.trusted if only you can write to the store",
            )
            return replace(artifact, compiled=None)
        log.info("compiled code may be loaded", version=version, vouched_by=self.vouched_by)
        return artifact
