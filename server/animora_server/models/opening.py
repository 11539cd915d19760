"""Opening the model store of the settings."""

from animora_artifact import VersionSource, open_store, signature_check
from animora_server.errors import ConfigurationError
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
        store = open_store(settings.store, check, settings.max_bytes)
    except ValueError as error:
        raise ConfigurationError(f"models.store: {error}") from error
    vouched_by = "models.verify_key" if check else "models.trusted" if settings.trusted else None
    return NativeCodeGuard(store, vouched_by)
