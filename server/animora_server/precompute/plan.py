"""The plan: whether a run begins a new generation or resumes the unfinished one."""

import secrets
from dataclasses import dataclass

from animora_server.errors import ConfigurationError
from animora_server.precompute.protocols import GenerationStore
from animora_server.types import Generation

ID_BYTES = 16
RESTART = "use --restart to abandon it and begin a new one"


@dataclass(frozen=True, slots=True)
class Plan:
    """The generation to build.

    Attributes:
        generation: Its record. Its times and model version hold, also in a resumed run.
        resumed: Whether another run began it: an earlier run, or another shard's.
        catalog_changed: Whether the database has changed since it was begun.
        model_changed: Whether another model has been activated since; servers then do not use its timelines.
    """

    generation: Generation
    resumed: bool
    catalog_changed: bool
    model_changed: bool


def new_generation_id() -> bytes:
    """A random id: 16 bytes."""
    return secrets.token_bytes(ID_BYTES)


async def begin_or_resume(store: GenerationStore, proposal: Generation) -> Plan:
    """Begins the proposed generation, or resumes the one that is being built.

    Args:
        store: The generations.
        proposal: The record of a new generation.

    Raises:
        ConfigurationError: The generation being built has other settings or another number of shards.
        StoreError: Redis did not answer.
    """
    building = await store.begin(proposal)
    if building.settings_digest != proposal.settings_digest:
        raise ConfigurationError(
            "a generation is being built with other settings (timeline.* or ranking.*): "
            f"finish it with those settings, or {RESTART}"
        )
    if building.shards != proposal.shards:
        raise ConfigurationError(
            f"a generation is being built in {building.shards} shards, not {proposal.shards}: "
            f"finish it with that number, or {RESTART}"
        )
    return Plan(
        generation=building,
        resumed=building.generation_id != proposal.generation_id,
        catalog_changed=building.catalog_digest != proposal.catalog_digest,
        model_changed=building.model_version != proposal.model_version,
    )


async def abandon_unfinished(store: GenerationStore) -> None:
    """Abandons the generation that is being built, if there is one.

    Raises:
        StoreError: Redis did not answer.
    """
    building = await store.building()
    if building is not None:
        await store.abandon(building)
