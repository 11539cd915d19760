"""From the ids that callers gave to the rows that may be ranked."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.types import BoolArray, DropReason, IntArray, RankQuery
from animora_server.values import value

FEW = 8  # members of a set that are compared one by one in less time than np.isin takes to begin


@value
class Candidates:
    """The distinct candidates that the catalog knows, in canonical order: by ascending id.

    Attributes:
        post_ids: int64 (k).
        rows: int64 (k), in the catalog.
        eligible: bool (k): may be in the answer.
        dropped: How many candidates may not, by the first reason that applies.
        dropped_posts: Which may not, and why, unknown ones included; empty unless the query says `explain`.
    """

    post_ids: IntArray
    rows: IntArray
    eligible: BoolArray
    dropped: Mapping[DropReason, int]
    dropped_posts: dict[int, DropReason]


def resolve(snapshot: CatalogSnapshot, queries: Sequence[RankQuery]) -> list[Candidates]:
    """Looks the candidates of queries up and sorts out what must not be shown.

    All queries go through each step together: NumPy takes 1 µs for a call, and some nanoseconds for an id.
    What is known but may not be shown stays among the candidates: scores are cached before the filters, so
    that a filter's change needs no purge.

    Args:
        snapshot: The catalog.
        queries: With one candidate or more each.
    """
    sorting = _Sorting(queries)
    sorting.drop_repeats()
    rows = snapshot.rows(sorting.ids)
    known = np.greater_equal(rows, 0)
    sorting.drop_of_some(
        DropReason.EXCLUDED,
        {
            number: query.exclude_post_ids
            for number, query in enumerate(queries)
            if len(query.exclude_post_ids)
        },
        sorting.ids,
    )
    if not known.all():
        sorting.drop(DropReason.UNKNOWN, ~known)
        sorting.keep(known)
        rows = rows[known]
    sorting.drop(DropReason.DELETED, snapshot.deleted[rows])
    user_ids = np.fromiter((query.user_id for query in queries), np.int64, len(queries))
    related = snapshot.related_authors_of_each(user_ids)
    if related:
        sorting.drop_of_some(DropReason.BLOCKED, related, snapshot.author_ids[rows])
    sorting.drop_of_some(
        DropReason.SEEN,
        {
            number: snapshot.seen_posts(query.user_id)
            for number, query in enumerate(queries)
            if query.exclude_seen
        },
        sorting.ids,
    )
    return sorting.candidates(rows)


class _Sorting:
    """The candidates of some queries (b), one query's after another's, while they are sorted out.

    Attributes:
        ids: int64 (n), ascending within a query.
    """

    def __init__(self, queries: Sequence[RankQuery]) -> None:
        self._explained = [number for number, query in enumerate(queries) if query.explain]
        lengths = np.fromiter((len(query.post_ids) for query in queries), np.int64, len(queries))
        self.ids = np.concatenate([query.post_ids for query in queries])
        self._offsets = np.concatenate(([0], lengths.cumsum()))  # int64 (b + 1)
        for which in self._slices():
            self.ids[which].sort()
        self._owners = np.arange(len(queries)).repeat(lengths)  # int64 (n), ascending
        self._shown = np.ones(len(self.ids), np.bool_)  # bool (n)
        self._dropped: list[dict[DropReason, int]] = [{} for _ in queries]
        self._dropped_posts: list[dict[int, DropReason]] = [{} for _ in queries]

    def drop_repeats(self) -> None:
        """Leaves each id of a query once, and counts the others."""
        first = np.empty(len(self.ids), np.bool_)
        np.not_equal(self.ids[1:], self.ids[:-1], out=first[1:])
        first[self._offsets[:-1]] = True
        if not first.all():
            self._count(DropReason.DUPLICATE, ~first)
            self.keep(first)

    def drop(self, reason: DropReason, which: BoolArray) -> None:
        """Drops bool (n), but for what was dropped before, for a reason."""
        newly = which & self._shown
        if not newly.any():
            return
        self._count(reason, newly)
        self._shown[newly] = False
        for number in self._explained:
            posts = self.ids[newly & (self._owners == number)]
            self._dropped_posts[number].update(dict.fromkeys(posts.tolist(), reason))

    def drop_of_some(self, reason: DropReason, sets: Mapping[int, IntArray], values: IntArray) -> None:
        """Drops what has one of values int64 (n) in its query's set, for those queries that have one."""
        if not sets:
            return
        which = np.zeros(len(values), np.bool_)
        slices = self._slices()
        for number, members in sets.items():
            which[slices[number]] = _among(values[slices[number]], members)
        self.drop(reason, which)

    def keep(self, which: BoolArray) -> None:
        """Forgets all but bool (n)."""
        self.ids, self._owners, self._shown = self.ids[which], self._owners[which], self._shown[which]
        self._offsets = self._owners.searchsorted(np.arange(len(self._dropped) + 1))

    def candidates(self, rows: IntArray) -> list[Candidates]:
        """What is left of each query, at catalog rows int64 (n)."""
        return [
            Candidates(self.ids[which], rows[which], self._shown[which], dropped, posts)
            for which, dropped, posts in zip(self._slices(), self._dropped, self._dropped_posts, strict=True)
        ]

    def _slices(self) -> list[slice]:
        ends = self._offsets.tolist()
        return [slice(start, end) for start, end in pairwise(ends)]

    def _count(self, reason: DropReason, which: BoolArray) -> None:
        counts = np.bincount(self._owners[which], minlength=len(self._dropped))
        for number in np.flatnonzero(counts).tolist():
            self._dropped[number][reason] = int(counts[number])


def _among(values: IntArray, members: IntArray) -> BoolArray:
    """Bool (k): which of values int64 (k) are members."""
    if len(members) > FEW:
        return np.isin(values, members)
    return np.asarray(np.equal(members[:, None], values).any(axis=0))
