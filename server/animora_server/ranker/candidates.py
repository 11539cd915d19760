"""Filters candidates: from the ids of requests to catalog rows, each eligible or with a drop reason."""

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
# In the order of the checks: the first reason that applies counts.
REASONS = (
    DropReason.DUPLICATE,
    DropReason.EXCLUDED,
    DropReason.UNKNOWN,
    DropReason.DELETED,
    DropReason.BLOCKED,
    DropReason.SEEN,
)
DUPLICATE, EXCLUDED, UNKNOWN, DELETED, BLOCKED, SEEN = range(len(REASONS))
NONE = len(REASONS)  # eligible

# A set of ids for each query, concatenated: members int64 (m), ascending in each set, and ends int64 (b).
Sets: TypeAlias = tuple[IntArray, IntArray]


@fast_dataclass
class Candidates:
    """The distinct candidates (n) of queries (b) that the catalog knows.

    The candidates of all queries are concatenated, in canonical order for each query: by ascending id.

    Attributes:
        post_ids: int64 (n).
        rows: int64 (n), in the catalog.
        eligible: bool (n), whether the candidate may be in the ranking.
        ends: int64 (b), where the candidates of each query end.
        sizes: int64 (b), how many candidates each query has.
        dropped: For each query, how many requested candidates are not eligible, by drop reason.
        dropped_posts: For each query with `explain`, the drop reason of each candidate that is not eligible,
            unknown ones included; empty for the other queries.
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
        """Where the candidates of each query are, b slices."""
        ends = self.ends.tolist()
        return list(map(slice, [0, *ends], ends))

    def subset(self, positions: Sequence[int]) -> "Candidates":
        """The candidates of the queries at these positions, in this order."""
        slices, sizes = self.slices, self.sizes[positions]
        kept = [slices[position] for position in positions]
        return Candidates(
            np.concatenate([self.post_ids[span] for span in kept]),
            np.concatenate([self.rows[span] for span in kept]),
            np.concatenate([self.eligible[span] for span in kept]),
            sizes.cumsum(),
            sizes,
            [self.dropped[position] for position in positions],
            [self.dropped_posts[position] for position in positions],
        )

    def drop_reasons(self, position: int, ranked: IntArray) -> dict[int, DropReason]:
        """Why each distinct candidate of a query is not in its ranking, by ascending post id.

        Args:
            position: The query's position; it has `explain`.
            ranked: int64 (k), where the ranked candidates are among the candidates of all queries.
        """
        span = self.slices[position]
        outranked = self.eligible[span].copy()
        outranked[ranked - span.start] = False
        dropped = dict.fromkeys(self.post_ids[span][outranked].tolist(), DropReason.OUTRANKED)
        return dict(sorted({**self.dropped_posts[position], **dropped}.items()))


NO_CANDIDATES = Candidates(NO_IDS, NO_IDS, np.empty(0, np.bool_), NO_IDS, NO_IDS, (), ())


def filter_candidates(snapshot: CatalogSnapshot, queries: Sequence[RankQuery]) -> Candidates:
    """Looks up the candidates of queries and marks those that are eligible.

    Known candidates that are not eligible stay: scores are cached before the filters, so a
    block or a deletion purges no cached scores.

    Args:
        snapshot: The catalog.
        queries: b of them, each with at least one candidate.
    """
    requested = np.concatenate([query.post_ids for query in queries])  # int64 (m)
    ends = list(accumulate([len(query.post_ids) for query in queries]))
    for start, end in pairwise([0, *ends]):
        requested[start:end].sort()
    requested_rows = snapshot.rows(requested)
    spans = [slice(end - len(query.post_ids), end) for query, end in zip(queries, ends, strict=True)]
    post_ids, rows, eligible = (
        np.empty_like(requested),
        np.empty_like(requested),
        np.empty(len(requested), np.bool_),
    )
    known_ends, known_sizes = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    reasons = np.empty(len(requested), np.int8)
    counts = np.zeros((len(queries), NONE + 1), np.int64)
    _find_drop_reasons(
        (requested, requested_rows, np.array(ends)),
        (snapshot.is_deleted(requested_rows), snapshot.author_ids),
        _concatenate(_excluded_posts(queries), len(queries)),
        _concatenate(
            _hidden_authors(snapshot, queries, [requested_rows[span] for span in spans]), len(queries)
        ),
        _concatenate(_seen_posts(snapshot, queries, [requested[span] for span in spans]), len(queries)),
        (post_ids, rows, eligible, known_ends, known_sizes, reasons, counts),
    )
    known = known_ends[-1]
    dropped: list[dict[DropReason, int]] = [{} for _ in queries]
    for number, reason in zip(*map(np.ndarray.tolist, counts[:, :NONE].nonzero()), strict=True):
        dropped[number][REASONS[reason]] = counts.item(number, reason)
    dropped_posts: list[Mapping[int, DropReason]] = [NO_POSTS] * len(queries)
    for number, query in enumerate(queries):
        if query.explain:
            dropped_posts[number] = _dropped_posts(requested[spans[number]], reasons[spans[number]])
    return Candidates(
        post_ids[:known], rows[:known], eligible[:known], known_ends, known_sizes, dropped, dropped_posts
    )


def _excluded_posts(queries: Sequence[RankQuery]) -> dict[int, IntArray]:
    """Sorted post ids to exclude, by the position of each query that names some."""
    return {
        number: np.sort(query.exclude_post_ids)
        for number, query in enumerate(queries)
        if len(query.exclude_post_ids)
    }


def _hidden_authors(
    snapshot: CatalogSnapshot, queries: Sequence[RankQuery], rows: Sequence[IntArray]
) -> dict[int, IntArray]:
    """Sorted ids of authors who block the user or are blocked, by the position of each query that has some.

    Args:
        snapshot: The catalog.
        queries: b of them.
        rows: For each query, the catalog rows of its candidates, int64 (k), negative where unknown.
    """
    related = snapshot.related_authors_of_each(np.array([query.user_id for query in queries]))
    for number, authors in related.items():
        if len(authors) > len(rows[number]):
            known = rows[number][rows[number] >= 0]
            related[number] = _common(authors, np.unique(snapshot.author_ids[known]))
    return related


def _seen_posts(
    snapshot: CatalogSnapshot, queries: Sequence[RankQuery], candidates: Sequence[IntArray]
) -> dict[int, IntArray]:
    """Sorted seen post ids, by the position of each query with `exclude_seen`.

    Args:
        snapshot: The catalog.
        queries: b of them.
        candidates: For each query, its candidates, int64 (k), ascending.
    """
    by_user: dict[int, IntArray] = {}  # a call may hold many queries for one user
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
    """The ids of `few` int64 (k) that are in `many` int64 (n > 0), both ascending."""
    common: IntArray = few[many.take(many.searchsorted(few), mode="clip") == few]
    return common


def _concatenate(sets: Mapping[int, IntArray], queries: int) -> Sets:
    """Concatenates the sets of some queries; the other queries (b in all) get empty sets."""
    if not sets:
        return NO_IDS, np.zeros(queries, np.int64)
    by_query = [sets.get(number, NO_IDS) for number in range(queries)]
    return np.concatenate(by_query), np.array(list(accumulate(map(len, by_query))))


@jit(tuple_of(IDS, IDS), NUMBER, NUMBER)
def _contains(sets: Sets, number: int, wanted: int) -> bool:
    """Whether an id is in the set of a query, by binary search."""
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
def _find_drop_reasons(
    requested: tuple[IntArray, IntArray, IntArray],
    catalog: tuple[BoolArray, IntArray],
    excluded: Sets,
    related: Sets,
    seen: Sets,
    out: tuple[IntArray, IntArray, BoolArray, IntArray, IntArray, npt.NDArray[np.int8], IntArray],
) -> None:
    """Finds the drop reason of each requested candidate, and collects the known candidates.

    Args:
        requested: The candidates of all queries int64 (n), ascending in each query; their catalog rows
            int64 (n), negative where unknown; where the candidates of each query end, int64 (b).
        catalog: Whether each candidate is deleted, bool (n); the authors' ids by catalog row, int64.
        excluded: Posts to exclude, a set for each query.
        related: Authors to hide, a set for each query.
        seen: Seen posts to drop, a set for each query.
        out: Written to: of the distinct known candidates (k), the ids int64, rows int64 and eligibility bool,
            of which the first k are set; where those of each query end, int64 (b), and how many each has,
            int64 (b); for each requested candidate, the index of the reason in REASONS or NONE, int8 (n);
            and how many candidates have each reason, int64 (b, NONE + 1).
    """
    ids, id_rows, ends = requested
    deleted, author_ids = catalog
    post_ids, rows, eligible, known_ends, known_sizes, reasons, counts = out
    known = at = 0
    for query in range(len(ends)):
        start, known_before = at, known
        while at < ends[query]:
            post, row = ids[at], id_rows[at]
            reason = NONE
            if at > start and post == ids[at - 1]:
                reason = DUPLICATE
            elif _contains(excluded, query, post):
                reason = EXCLUDED
            elif row < 0:
                reason = UNKNOWN
            elif deleted[at]:
                reason = DELETED
            elif len(related[0]) > 0 and _contains(related, query, author_ids[row]):
                reason = BLOCKED
            elif _contains(seen, query, post):
                reason = SEEN
            reasons[at] = reason
            counts[query, reason] += 1
            if row >= 0 and reason != DUPLICATE:
                post_ids[known], rows[known], eligible[known] = post, row, reason == NONE
                known += 1
            at += 1
        known_ends[query], known_sizes[query] = known, known - known_before


def _dropped_posts(requested: IntArray, reasons: npt.NDArray[np.int8]) -> dict[int, DropReason]:
    return {
        post: REASONS[reason]
        for post, reason in zip(requested.tolist(), reasons.tolist(), strict=True)
        if reason not in (DUPLICATE, NONE)
    }
