"""The methods ListModels, GetModel and ActivateModel."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import structlog

from animora_artifact import ArtifactRejected, Manifest, ModelStore, StoreUnavailable, VersionNotFound
from animora_artifact.errors import RejectionReason
from animora_proto.ranking.v1 import models_pb2 as pb
from animora_server.errors import ActivationPending, ModelNotFound, ModelStoreUnavailable
from animora_server.models import ModelActivator, ModelWatcher, readable_active
from animora_server.service.calls import Call, UnaryMethod
from animora_server.service.model_codec import (
    ModelState,
    read_activate_request,
    read_get_request,
    read_list_request,
    write_model,
    write_page,
    write_unreadable,
)

log = structlog.get_logger(__name__)

MODEL_SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["ModelService"].full_name
MANIFESTS_AT_ONCE = 4  # few, since other parts of the server use the same threads

Result = TypeVar("Result")


class LoadedModels(Protocol):
    """The versions that are loaded. See inference.ModelManager."""

    @property
    def active_version(self) -> str | None:
        """The version that answers where a request names none; None while none is loaded."""
        ...

    @property
    def loaded_versions(self) -> tuple[str, ...]:
        """The versions on the device."""
        ...


class ModelService:
    """Answers what the model store holds and what this server does with it, and activates versions.

    Args:
        store: The model store.
        watcher: Follows `ACTIVE`.
        activator: Activates versions.
        loaded: The versions that are loaded.
    """

    def __init__(
        self,
        store: ModelStore,
        watcher: ModelWatcher,
        activator: ModelActivator,
        loaded: LoadedModels,
    ) -> None:
        self._store = store
        self._watcher = watcher
        self._activator = activator
        self._loaded = loaded
        self._reading = asyncio.Semaphore(MANIFESTS_AT_ONCE)

    @property
    def methods(self) -> Mapping[str, UnaryMethod]:
        """The implementation of each method, by name."""
        return {"ListModels": self.list, "GetModel": self.get, "ActivateModel": self.activate}

    async def list(self, data: bytes, _: Call) -> bytes:
        """Serves ListModels.

        Raises:
            CallError: The request is invalid, or the store cannot be read.
        """
        size, after = read_list_request(data)
        names = sorted(await self._read(self._store.names), reverse=True)
        if after is not None:
            names = [name for name in names if name < after]
        page, more = names[:size], len(names) > size
        active = await self._active()
        models = await asyncio.gather(*(self._entry(version, active) for version in page))
        return write_page([model for model in models if model is not None], page[-1] if more else None)

    async def get(self, data: bytes, _: Call) -> bytes:
        """Serves GetModel.

        Raises:
            CallError: The request is invalid, there is no such version, or the store cannot be read.
        """
        model = await self._model(read_get_request(data))
        return pb.GetModelResponse(model=model).SerializeToString()

    async def activate(self, data: bytes, call: Call) -> bytes:
        """Serves ActivateModel.

        Raises:
            CallError: The request is invalid, or why the version does not serve, or not yet.
        """
        version, expected = read_activate_request(data)
        log.info("activation requested", version=version, request_id=call.request_id)
        try:
            async with asyncio.timeout_at(call.deadline - call.reserve):
                await self._activator.activate(version, expected)
                model = await self._model(version)
        except TimeoutError as error:
            raise ActivationPending(version) from error
        return pb.ActivateModelResponse(model=model).SerializeToString()

    async def _model(self, version: str) -> pb.Model:
        """A version with its signature. Raises ModelNotFound or ModelStoreUnavailable."""
        model = await self._entry(version, await self._active())
        if model is None:
            raise ModelNotFound(version)
        if model.HasField("create_time"):  # its manifest can be read
            model.signed = await self._read(lambda: self._store.is_signed(version))
        return model

    async def _entry(self, version: str, active: str | None) -> pb.Model | None:
        """A version without its signature; None if it has no manifest, so does not exist."""
        try:
            return write_model(await self._manifest(version), self._state(version, active))
        except VersionNotFound:
            return None
        except ArtifactRejected as error:
            damage = error
        except ValueError:
            damage = ArtifactRejected(RejectionReason.MANIFEST, "a number or time is far out of range")
        return write_unreadable(version, self._state(version, active, damage))

    async def _manifest(self, version: str) -> Manifest:
        async with self._reading:
            return await self._read(lambda: self._store.manifest(version))

    async def _active(self) -> str | None:
        """The version that `ACTIVE` names; None if it is not signed by the key, or damaged."""
        return await self._read(lambda: readable_active(self._store))

    def _state(self, version: str, active: str | None, damage: ArtifactRejected | None = None) -> ModelState:
        refusal = self._watcher.refusals.get(version)
        why = None if refusal is None or refusal.reason is None else (refusal.reason, refusal.detail)
        if damage is not None:
            why = damage.reason.value, damage.detail
        return ModelState(
            active=version == active,
            serving=version == self._loaded.active_version,
            resident=version in self._loaded.loaded_versions,
            refusal=why,
        )

    async def _read(self, read: Callable[[], Result]) -> Result:
        """Reads from the store on a thread. Raises ArtifactError, or ModelStoreUnavailable."""
        try:
            return await asyncio.to_thread(read)
        except (StoreUnavailable, OSError) as error:
            log.warning("model store not read", error=str(error))
            raise ModelStoreUnavailable from error
