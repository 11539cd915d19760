"""Opening the model store of the settings."""

from animora_artifact import SizeLimit, VersionSource, open_store, signature_check
from animora_server.errors import ConfigurationError
from animora_server.models.memory import memory_limit
from animora_server.models.native_code import NativeCodeGuard
from animora_server.settings import ModelSettings


def open_models(settings: ModelSettings) -> VersionSource | None:
    """The model store, None where none is set.

    It reads signed versions alone where a key is set, and compiled code alone where somebody vouches for it.

    Raises:
        ConfigurationError: The store's URL or the key cannot be used, or a model is required and none is set.
    """
    if not settings.store:
        if settings.ready_requires_model:
            raise ConfigurationError("models.ready_requires_model needs a model to load: set models.store")
        return None
    try:
        check = signature_check(settings.verify_key) if settings.verify_key else None
    except ValueError as error:
        raise ConfigurationError(f"models.verify_key: {error}") from error
    try:
        store = open_store(settings.store, check, size_limit(settings, memory_limit()))
    except ValueError as error:
        raise ConfigurationError(f"models.store: {error}") from error
    vouched_by = "models.verify_key" if check else "models.trusted" if settings.trusted else None
    return NativeCodeGuard(store, vouched_by)


def size_limit(settings: ModelSettings, memory: int) -> SizeLimit:
    """What a version's files may have together: less than the setting where memory would not do.

    In memory are its files and the network made of them, and both once more in the process of the preflight.

    Args:
        settings: `max_bytes` and `preflight` count.
        memory: Bytes that this process may use together with its children.
    """
    copies, share = (4, "a quarter") if settings.preflight else (2, "half")
    if settings.max_bytes <= memory // copies:
        return SizeLimit(settings.max_bytes, "models.max_bytes")
    return SizeLimit(memory // copies, f"{share} of the {memory} bytes of memory")
