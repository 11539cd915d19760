"""Histories: the last interactions of each user, in order of time."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from animora_database.copy_format import POSTGRES_EPOCH
from animora_server.catalog.buckets import FACTOR, expand
from animora_server.catalog.index import narrow_ids
from animora_server.catalog.records import Interactions
from animora_server.jit import IDS, IDS_OUT, NUMBER, SMALL, jit, tuple_of
from animora_server.types import DoubleArray, IntArray, SmallArray

# Of _select_newest, which holds the interpreter lock: about a millisecond with 50 entries a user.
USERS_PER_CALL = 256
# Hashes of entries: an interaction whose hash no entry of the user has is in no entry, without a search.
HASHES, HASH_SHIFT = 1 << 12, np.uint64(64 - 12)
Seconds = npt.NDArray[np.uint32]  # whole unix seconds, until 2106


@dataclass(frozen=True, slots=True)
class History:
    """Entries, oldest first; entries of equal time by post id, then by kind.

    An entry is the latest interaction of one kind with one post, so a post that was liked and commented on
    has two.

    Attributes:
        post_ids: int64 (k). The catalog need not have these posts, or they may be deleted.
        kinds: int8 (k), positions in `animora_database.views.INTERACTION_KINDS`.
        times: float64 (k), whole unix seconds. Times before 1970 are 0.
    """

    post_ids: IntArray
    kinds: SmallArray
    times: DoubleArray

    def __len__(self) -> int:
        return len(self.post_ids)


@dataclass(frozen=True, slots=True)
class HistoryBatch:
    """The histories of u users, one after the other.

    Attributes:
        offsets: int64 (u + 1), where the history of each user starts in `entries`.
        entries: The entries of all users.
    """

    offsets: IntArray
    entries: History

    def __len__(self) -> int:
        """The number of users."""
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> History:
        """The history of the user at a position, empty for a user without entries."""
        span = slice(self.offsets.item(position), self.offsets.item(position + 1))
        return History(self.entries.post_ids[span], self.entries.kinds[span], self.entries.times[span])


@dataclass(frozen=True, slots=True)
class HistoryIndex:
    """The last entries of each user within one span of time, in compressed sparse rows.

    An entry takes 9 bytes if ids fit 32 bits, else 13. Whole seconds take half the bytes of exact times, and
    the exact times are needed only to put entries in order.

    Attributes:
        user_ids: int64 (u), ascending and distinct.
        offsets: int64 (u + 1), where the entries of each user start.
        post_ids: int32 or int64 (m), in the order of `History`.
        kinds: int8 (m).
        times: uint32 (m), whole unix seconds.
    """

    user_ids: IntArray
    offsets: IntArray
    post_ids: npt.NDArray[np.int32] | IntArray
    kinds: SmallArray
    times: Seconds

    @classmethod
    def empty(cls) -> Self:
        """No users."""
        return cls.of(Interactions.empty(), 0)

    @classmethod
    def of(cls, interactions: Interactions, limit: int) -> Self:
        """The index of interactions, with at most `limit` entries of each user, the newest; 0 keeps none."""
        user_ids, offsets, newest = newest_entries(interactions, limit)
        return cls(
            user_ids,
            offsets,
            narrow_ids(interactions.post_ids[newest]),
            interactions.kinds[newest],
            _whole_seconds(interactions.times[newest]),
        )

    def find(self, user_ids: IntArray) -> tuple[IntArray, IntArray]:
        """Where the entries of users int64 (k) start, and how many they are: int64 (k) each.

        The index must not be empty.
        """
        at = self.user_ids.searchsorted(user_ids)
        present = np.equal(self.user_ids.take(at, mode="clip"), user_ids)
        at[~present] = 0
        return self.offsets[at], (self.offsets[at + 1] - self.offsets[at]) * present

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        columns = (self.user_ids, self.offsets, self.post_ids, self.kinds, self.times)
        return sum(column.nbytes for column in columns)


@dataclass(frozen=True, slots=True)
class Histories:
    """The last entries of each user. Every entry of a span is newer than those of the spans before it.

    Attributes:
        limit: The number of entries of a user, at most.
        base: Entries older than the recount window at the last reconcile.
        later: Entries between those of `base` and of `recent`.
        recent: Entries within the recount window.
    """

    limit: int = 0
    base: HistoryIndex = field(default_factory=HistoryIndex.empty)
    later: HistoryIndex = field(default_factory=HistoryIndex.empty)
    recent: HistoryIndex = field(default_factory=HistoryIndex.empty)

    def of_each(self, user_ids: IntArray) -> HistoryBatch:
        """The histories of users int64 (u), by position."""
        offsets, post_ids, kinds, times = _joined((self.base, self.later, self.recent), user_ids, self.limit)
        return HistoryBatch(offsets, History(post_ids, kinds, times.astype(np.float64)))

    def extended(self, interactions: Interactions) -> "Histories":
        """These histories with newer interactions in `later`. `recent` must be empty."""
        added = HistoryIndex.of(interactions, self.limit)
        user_ids = np.union1d(self.later.user_ids, added.user_ids)
        offsets, post_ids, kinds, times = _joined((self.later, added), user_ids, self.limit)
        return replace(self, later=HistoryIndex(user_ids, offsets, narrow_ids(post_ids), kinds, times))

    def with_recent(self, recent: HistoryIndex) -> "Histories":
        """These histories with other recent entries."""
        return replace(self, recent=recent)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.base.nbytes + self.later.nbytes + self.recent.nbytes


def newest_entries(interactions: Interactions, limit: int) -> tuple[IntArray, IntArray, IntArray]:
    """The newest entries of each user, in the order of `History`.

    Returns:
        User ids int64 (u), ascending; where the entries of each user start, int64 (u + 1); and the positions
        of the entries among the interactions, int64 (m).
    """
    if not limit or not len(interactions):
        return np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64)
    order = np.argsort(interactions.user_ids)
    user_ids = interactions.user_ids[order]
    starts = np.append(0, np.flatnonzero(user_ids[1:] != user_ids[:-1]) + 1)
    offsets, newest = _newest(
        np.append(starts, len(order)),
        interactions.post_ids[order],
        interactions.kinds[order],
        interactions.times[order],
        limit,
    )
    return user_ids[starts], offsets, order[newest]


def _joined(
    spans: tuple[HistoryIndex, ...], user_ids: IntArray, limit: int
) -> tuple[IntArray, IntArray, SmallArray, Seconds]:
    """The newest entries of users int64 (u) in consecutive spans.

    Returns:
        Offsets int64 (u + 1), post ids int64 (m), kinds int8 (m) and times uint32 (m).
    """
    found = [(span, *span.find(user_ids)) for span in spans if len(span.user_ids)]
    found = [(span, starts, sizes) for span, starts, sizes in found if sizes.any()]
    offsets = np.zeros(len(user_ids) + 1, np.int64)
    for _, _, sizes in found:
        offsets[1:] += sizes
    offsets = np.cumsum(offsets)
    if len(found) == 1:  # with at most `limit` entries of a user
        ((span, starts, sizes),) = found
        at = expand(starts, sizes)
        return offsets, span.post_ids[at].astype(np.int64), span.kinds[at], span.times[at]
    total = offsets[-1]
    post_ids, kinds, times = np.empty(total, np.int64), np.empty(total, np.int8), np.empty(total, np.uint32)
    begins = offsets[:-1]
    for span, starts, sizes in found:
        at, to = expand(starts, sizes), expand(begins, sizes)
        post_ids[to], kinds[to], times[to] = span.post_ids[at], span.kinds[at], span.times[at]
        begins = begins + sizes
    # Their positions order the entries, because the spans are consecutive.
    offsets, newest = _newest(offsets, post_ids, kinds, np.arange(total), limit)
    return offsets, post_ids[newest], kinds[newest], times[newest]


def _newest(
    offsets: IntArray, post_ids: IntArray, kinds: SmallArray, times: IntArray, limit: int
) -> tuple[IntArray, IntArray]:
    """The newest entries of each user, given the interactions (p) of u users, one user after the other.

    Returns:
        Offsets of the entries int64 (u + 1), and their positions int64 (m).
    """
    sizes, newest = np.empty(len(offsets) - 1, np.int64), np.empty(len(post_ids), np.int64)
    end = 0
    for start in range(0, len(sizes), USERS_PER_CALL):
        some = sizes[start : start + USERS_PER_CALL]
        _select_newest(
            offsets[start : start + len(some) + 1], (post_ids, kinds, times), limit, newest[end:], some
        )
        end += int(some.sum())
    return np.append(0, np.cumsum(sizes)), newest[:end]


@jit(IDS, tuple_of(IDS, SMALL, IDS), NUMBER, IDS_OUT, IDS_OUT)
def _select_newest(
    offsets: IntArray,
    interactions: tuple[IntArray, SmallArray, IntArray],
    limit: int,
    newest: IntArray,
    sizes: IntArray,
) -> None:
    """Writes the positions of the newest entries of each user, oldest first, and the number of them.

    The positions selected so far are kept in order, and each interaction is inserted at its place.
    """
    post_ids, kinds, times = interactions
    users = np.full(HASHES, -1, np.int64)  # the last user with an entry of each hash
    first = 0  # of the user, in newest
    for user in range(len(sizes)):
        size = 0
        for at in range(offsets[user], offsets[user + 1]):
            if size == limit and times[at] < times[newest[first]]:
                continue
            place = size
            while place > 0:
                other = newest[first + place - 1]
                if times[other] < times[at] or (
                    times[other] == times[at] and (post_ids[other], kinds[other]) < (post_ids[at], kinds[at])
                ):
                    break
                place -= 1
            # The entry that is left out: an interaction of the same kind with the same post, else the oldest.
            out = 0 if size == limit else -1
            slot = (np.uint64(post_ids[at] + kinds[at]) * FACTOR) >> HASH_SHIFT
            if users[slot] == user:
                for number in range(size):
                    other = newest[first + number]
                    if post_ids[other] == post_ids[at] and kinds[other] == kinds[at]:
                        out = number
                        break
            users[slot] = user
            if out < 0:
                for number in range(size, place, -1):
                    newest[first + number] = newest[first + number - 1]
                newest[first + place] = at
                size += 1
            elif out < place:  # else the entry that would be left out is newer
                for number in range(out, place - 1):
                    newest[first + number] = newest[first + number + 1]
                newest[first + place - 1] = at
        sizes[user] = size
        first += size


def _whole_seconds(times: IntArray) -> Seconds:
    """Whole unix seconds uint32 (m) of microseconds since POSTGRES_EPOCH."""
    seconds: npt.NDArray[Any] = times // 1_000_000 + POSTGRES_EPOCH
    return seconds.clip(0, np.iinfo(np.uint32).max).astype(np.uint32)
