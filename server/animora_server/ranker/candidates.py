"""From the ids that callers gave to the rows that may be ranked."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from animora_server.catalog import CatalogSnapshot
from animora_server.fast_dataclass import fast_dataclass
from animora_server.jit import (
    COUNTS_OUT,
    FLAGS,
    FLAGS_OUT,
    IDS,
    IDS_OUT,
    NUMBER,
    SMALL_OUT,
    jit,
    tuple_of,
)
from animora_server.types import BoolArray, DropReason, IntArray, RankQuery

NO_IDS = np.empty(0, np.int64)
NO_POSTS: Mapping[int, DropReason] = {}
# In the order in which they are looked for: the first that applies counts.
REASONS = (
    DropReason.DUPLICATE,
    DropReason.EXCLUDED,
    DropReason.UNKNOWN,
    DropReason.DELETED,
    DropReason.BLOCKED,
    DropReason.SEEN,
)
DUPLICATE, EXCLUDED, UNKNOWN, DELETED, BLOCKED, SEEN = range(len(REASONS))
NONE = len(REASONS)  # may be shown

# Sets, one after another, each ascending: their members int64 (m), and where each ends, int64 (b).
Sets: TypeAlias = tuple[IntArray, IntArray]


@fast_dataclass
class Candidates:
    """The distinct candidates that the catalog knows, of queries (b) that go on together.

    One query's (k) follow another's, each query's in canonical order: by ascending id.

    Attributes:
        post_ids: int64 (n).
        rows: int64 (n), in the catalog.
        eligible: bool (n): may be in the answer.
        ends: int64 (b), where each query's end.
        sizes: int64 (b), how many are each query's.
        dropped: For each query, how many candidates may not be shown, by the first reason that applies.
        dropped_posts: For each, which may not, and why, unknown ones too; empty unless it says `explain`.
    """

    post_ids: IntArray
    rows: IntArray
    eligible: BoolArray
    ends: IntArray
    sizes: IntArray
    dropped: Sequence[Mapping[DropReason, int]]
    dropped_posts: Sequence[Mapping[int, DropReason]]

    @property
    def slices(self) -> list[slice]:
        """Where each query's are."""
        ends = self.ends.tolist()
        return list(map(slice, [0, *ends], ends))

    def of(self, numbers: Sequence[int]) -> "Candidates":
        """Those of some of the queries."""
        slices, sizes = self.slices, self.sizes[numbers]
        some = [slices[number] for number in numbers]
        return Candidates(
            np.concatenate([self.post_ids[each] for each in some]),
            np.concatenate([self.rows[each] for each in some]),
            np.concatenate([self.eligible[each] for each in some]),
            sizes.cumsum(),
            sizes,
            [self.dropped[number] for number in numbers],
            [self.dropped_posts[number] for number in numbers],
        )


def filter_candidates(snapshot: CatalogSnapshot, queries: Sequence[RankQuery]) -> Candidates:
    """Looks the candidates of queries up and sorts out what must not be shown.

    What is known but may not be shown stays among the candidates: scores are cached before the filters, so
    that a filter's change needs no purge.

    Args:
        snapshot: The catalog.
        queries: b of them, with one candidate or more each.
    """
    requested = np.concatenate([query.post_ids for query in queries])  # int64 (m)
    ends = list(accumulate([len(query.post_ids) for query in queries]))
    for start, end in pairwise([0, *ends]):
        requested[start:end].sort()
    requested_rows = snapshot.rows(requested)
    slices = [slice(end - len(query.post_ids), end) for query, end in zip(queries, ends, strict=True)]
    post_ids, rows, eligible = (
        np.empty_like(requested),
        np.empty_like(requested),
        np.empty(len(requested), np.bool_),
    )
    known_ends, known_sizes = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    why = np.empty(len(requested), np.int8)
    counts = np.zeros((len(queries), NONE + 1), np.int64)
    _sort_out(
        (requested, requested_rows, np.array(ends)),
        (snapshot.is_deleted(requested_rows), snapshot.author_ids),
        _joined(_excluded(queries), len(queries)),
        _joined(_related(snapshot, queries, [requested_rows[each] for each in slices]), len(queries)),
        _joined(_seen(snapshot, queries, [requested[each] for each in slices]), len(queries)),
        (post_ids, rows, eligible, known_ends, known_sizes, why, counts),
    )
    known = known_ends[-1]
    dropped: list[dict[DropReason, int]] = [{} for _ in queries]
    for number, reason in zip(*map(np.ndarray.tolist, counts[:, :NONE].nonzero()), strict=True):
        dropped[number][REASONS[reason]] = counts.item(number, reason)
    dropped_posts: list[Mapping[int, DropReason]] = [NO_POSTS] * len(queries)
    for number, query in enumerate(queries):
        if query.explain:
            dropped_posts[number] = _dropped_posts(requested[slices[number]], why[slices[number]])
    return Candidates(
        post_ids[:known], rows[:known], eligible[:known], known_ends, known_sizes, dropped, dropped_posts
    )


def _excluded(queries: Sequence[RankQuery]) -> dict[int, IntArray]:
    """By position, the posts that those who name some will not have, ascending."""
    return {
        number: np.sort(query.exclude_post_ids)
        for number, query in enumerate(queries)
        if len(query.exclude_post_ids)
    }


def _related(
    snapshot: CatalogSnapshot, queries: Sequence[RankQuery], rows: Sequence[IntArray]
) -> dict[int, IntArray]:
    """By position, the authors whose posts must not be shown to those who have such, ascending.

    Args:
        snapshot: The catalog.
        queries: b of them.
        rows: For each, the rows of its candidates int64 (k), negative where unknown.
    """
    related = snapshot.related_authors_of_each(np.array([query.user_id for query in queries]))
    for number, authors in related.items():
        if len(authors) > len(rows[number]):
            known = rows[number][rows[number] >= 0]
            related[number] = _common(authors, np.unique(snapshot.author_ids[known]))
    return related


def _seen(
    snapshot: CatalogSnapshot, queries: Sequence[RankQuery], candidates: Sequence[IntArray]
) -> dict[int, IntArray]:
    """By position, the seen posts of those who ask for unseen ones, ascending.

    Args:
        snapshot: The catalog.
        queries: b of them.
        candidates: For each, its candidates int64 (k), ascending.
    """
    by_user: dict[int, IntArray] = {}  # a caller may ask for one user many times
    seen: dict[int, IntArray] = {}
    for number, query in enumerate(queries):
        if query.exclude_seen:
            posts = by_user.get(query.user_id)
            if posts is None:
                posts = by_user[query.user_id] = snapshot.seen_posts(query.user_id)
            few = len(posts) <= len(candidates[number])
            seen[number] = posts if few else _common(posts, candidates[number])
    return seen


def _common(many: IntArray, few: IntArray) -> IntArray:
    """Which of a few ids int64 (k) are among many int64 (n > 0), both ascending."""
    common: IntArray = few[many.take(many.searchsorted(few), mode="clip") == few]
    return common


def _joined(sets: Mapping[int, IntArray], queries: int) -> Sets:
    """Sets of some of the queries (b)."""
    if not sets:
        return NO_IDS, np.zeros(queries, np.int64)
    each = [sets.get(number, NO_IDS) for number in range(queries)]
    return np.concatenate(each), np.array(list(accumulate(map(len, each))))


@jit(tuple_of(IDS, IDS), NUMBER, NUMBER)
def _has(sets: Sets, number: int, wanted: int) -> bool:
    """Whether one is in the set of a number."""
    members, ends = sets
    start, end = ends[number - 1] if number > 0 else 0, ends[number]
    while start < end:
        middle = (start + end) // 2
        if members[middle] < wanted:
            start = middle + 1
        else:
            end = middle
    return bool(start < ends[number] and members[start] == wanted)


@jit(
    tuple_of(IDS, IDS, IDS),
    tuple_of(FLAGS, IDS),
    *(tuple_of(IDS, IDS),) * 3,
    tuple_of(IDS_OUT, IDS_OUT, FLAGS_OUT, IDS_OUT, IDS_OUT, SMALL_OUT, COUNTS_OUT),
)
def _sort_out(
    requested: tuple[IntArray, IntArray, IntArray],
    catalog: tuple[BoolArray, IntArray],
    excluded: Sets,
    related: Sets,
    seen: Sets,
    out: tuple[IntArray, IntArray, BoolArray, IntArray, IntArray, npt.NDArray[np.int8], IntArray],
) -> None:
    """Finds for each candidate the first reason not to show it.

    Args:
        requested: Of queries (b), the candidates int64 (n), one query's after another's, ascending in each;
            their
            rows in the catalog, negative where unknown; where each query's end, int64 (b).
        catalog: Which of the candidates are deleted, bool (n), and the authors by row.
        excluded: Posts to leave out.
        related: Authors whose posts must not be shown.
        seen: Posts to leave out.
        out: Gets the ids int64 (k) of those that are distinct and known, their rows, whether they may be
            shown, where each query's end, and how many each has; and for each of all the place of the reason
            among REASONS or NONE, int8 (n), and how many there are of each, int64 (b, NONE + 1).
    """
    ids, id_rows, ends = requested
    deleted, author_ids = catalog
    post_ids, rows, eligible, known_ends, known_sizes, why, counts = out
    known = at = 0
    for query in range(len(ends)):
        start, known_before = at, known
        while at < ends[query]:
            post, row = ids[at], id_rows[at]
            reason = NONE
            if at > start and post == ids[at - 1]:
                reason = DUPLICATE
            elif _has(excluded, query, post):
                reason = EXCLUDED
            elif row < 0:
                reason = UNKNOWN
            elif deleted[at]:
                reason = DELETED
            elif len(related[0]) > 0 and _has(related, query, author_ids[row]):
                reason = BLOCKED
            elif _has(seen, query, post):
                reason = SEEN
            why[at] = reason
            counts[query, reason] += 1
            if row >= 0 and reason != DUPLICATE:
                post_ids[known], rows[known], eligible[known] = post, row, reason == NONE
                known += 1
            at += 1
        known_ends[query], known_sizes[query] = known, known - known_before


def _dropped_posts(requested: IntArray, why: npt.NDArray[np.int8]) -> dict[int, DropReason]:
    return {
        post: REASONS[reason]
        for post, reason in zip(requested.tolist(), why.tolist(), strict=True)
        if reason not in (DUPLICATE, NONE)
    }
