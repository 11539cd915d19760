"""What timelines need from the rest of the server; `app` supplies it."""

from contextlib import AbstractContextManager
from math import inf
from typing import Protocol

from animora_server.types import RankedTimeline


class TimelineStore(Protocol):
    """Lists that were made; best effort, so no method fails.

    A key names what may be stored for a user beside others: the user, the options that a caller may
    choose, and a digest of the settings that shape a list (`timeline.keys`).
    """

    async def latest(self, key: bytes) -> RankedTimeline | None:
        """The newest list of a key, by `made_at`: the one last stored, or the current generation's."""
        ...

    async def pinned(
        self, key: bytes, snapshot_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """The list of a key with an id of 16 bytes, which nothing can stand in for.

        Args:
            key: The key.
            snapshot_id: The id.
            answer_by: A store that does not answer is asked again until then, on the event loop's clock.
            written_by: A list that is not there is looked for again until then, on the same clock: another
                process may still be writing it.
        """
        ...

    async def keep(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """Stores a list for its page tokens; whether it can be read back.

        Returns once that is known, after the store's timeout at the latest.
        """
        ...

    async def make_latest(self, key: bytes, snapshot: RankedTimeline) -> bool:
        """Stores a list as `keep` does, and makes it the key's latest."""
        ...


class RefreshCounter(Protocol):
    """Is told of lists that are made while another is served."""

    def refreshed(self, why: str) -> None:
        """Counts one: "early", "stale", "newer", "restart" or "degraded"."""
        ...


class WorkGate(Protocol):
    """Bounds the work in flight."""

    def work(self, rows: int) -> AbstractContextManager[None]:
        """Admits so many candidates while the block lasts. Raises Refused if that is too much."""
        ...
