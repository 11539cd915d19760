"""The plan: which generation a run builds, a new one or the one that an earlier run left unfinished."""

import secrets
from dataclasses import dataclass

from animora_server.errors import ConfigurationError
from animora_server.precompute.protocols import GenerationStore
from animora_server.types import Generation

ID_BYTES = 16
RESTART = "say --restart to abandon it and begin a new one"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build.

    Attributes:
        generation: Its record, as it was begun; times and the model version are taken from there.
        resumed: Whether it was begun by another run: an earlier one, or another shard's.
        catalog_changed: Whether the database has changed since it was begun.
        model_changed: Whether another model is active since: servers pass over the lists of this one.
    """

    generation: Generation
    resumed: bool
    catalog_changed: bool
    model_changed: bool


def new_generation_id() -> bytes:
    """An id for a generation."""
    return secrets.token_bytes(ID_BYTES)


async def begin_or_resume(store: GenerationStore, proposal: Generation) -> Plan:
    """Begins the generation that is proposed, or goes on with the one that is being built.

    Args:
        store: Where generations are.
        proposal: What a new one would be.

    Raises:
        ConfigurationError: The one being built has other settings or shards.
        StoreError: Redis did not answer.
    """
    building = await store.begin(proposal)
    if building.settings_digest != proposal.settings_digest:
        raise ConfigurationError(
            "a generation is being built with other settings (timeline.* or ranking.*): "
            f"finish it with those, or {RESTART}"
        )
    if building.shards != proposal.shards:
        raise ConfigurationError(
            f"a generation is being built in {building.shards} shards, not {proposal.shards}: "
            f"finish it in as many, or {RESTART}"
        )
    return Plan(
        generation=building,
        resumed=building.generation_id != proposal.generation_id,
        catalog_changed=building.catalog_digest != proposal.catalog_digest,
        model_changed=building.model_version != proposal.model_version,
    )


async def abandon_unfinished(store: GenerationStore) -> None:
    """Ends the building of the generation that is being built, if there is one.

    Raises:
        StoreError: Redis did not answer.
    """
    building = await store.building()
    if building is not None:
        await store.abandon(building)
