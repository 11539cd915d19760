"""The serving state, which a request takes once and uses from start to end."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import CatalogUnavailable, ModelNotResident, ModelUnavailable
from animora_server.scoring.protocols import ScoringModel


@dataclass(frozen=True, slots=True)
class ServingState:
    """A catalog snapshot and the models encoded for it; swapped as one.

    Attributes:
        snapshot: The catalog snapshot.
        active: The model that serves requests that name no version; None where no model is active.
        resident: All loaded models by version, the active one included.
    """

    snapshot: CatalogSnapshot
    active: ScoringModel | None = None
    resident: Mapping[str, ScoringModel] = field(default_factory=dict)

    def model(self, version: str) -> ScoringModel:
        """The model of a version; the active model for an empty name.

        Raises:
            ModelNotResident: The version is not loaded.
            ModelUnavailable: The name is empty and no model is active.
        """
        model = self.resident.get(version) if version else self.active
        if model is None:
            raise ModelNotResident if version else ModelUnavailable
        return model

    def with_active(self, version: str) -> "ServingState":
        """The state in which a resident version is the active one; this state for an empty name.

        Raises:
            ModelNotResident: The version is not loaded.
        """
        return replace(self, active=self.model(version)) if version else self

    def with_models(self, models: Mapping[str, ScoringModel]) -> "ServingState":
        """The state in which other models, given by version, stand for those of loaded versions."""
        active = None if self.active is None else models.get(self.active.version, self.active)
        return replace(self, active=active, resident={**self.resident, **models})


class ServingStateHolder:
    """Holds the serving state for new requests. The model manager replaces it.

    Args:
        max_block_age: Seconds after which blocks that could not be refreshed are too old.
        watch: Returns a new serving state with those models watched that are to be.

    Attributes:
        latest: The newest serving state; None until the catalog is loaded.
    """

    def __init__(
        self, max_block_age: float, watch: Callable[[ServingState], ServingState] = lambda state: state
    ) -> None:
        self._max_block_age = max_block_age
        self._watch = watch
        self.latest: ServingState | None = None

    def publish(self, state: ServingState) -> None:
        """Replaces the serving state for new requests."""
        self.latest = self._watch(state)

    def current(self) -> ServingState:
        """The serving state for a new request.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
        """
        if self.latest is None:
            raise CatalogUnavailable("the catalog is not loaded yet")
        if self.has_old_blocks(self.latest):
            raise CatalogUnavailable("the blocks between users could not be refreshed for too long")
        return self.latest

    def has_old_blocks(self, state: ServingState) -> bool:
        """Whether the blocks of a serving state are too old for requests."""
        return time.monotonic() - state.snapshot.blocks_read_at > self._max_block_age
