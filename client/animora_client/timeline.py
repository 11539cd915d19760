"""A page of a user's feed, as a caller gets it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from animora_client.ranking import CacheStatus, DegradedReason, DropReason, RankedPost, Ranker


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a post's place is made of.

    Attributes:
        terms: They add up to the model's logit, or to the heuristic's value.
        reranking_terms: They add up to the score, where the server re-ranks timelines; else empty.
        exploration: The post holds a place that is kept for posts with few interactions.
    """

    terms: Mapping[str, float]
    reranking_terms: Mapping[str, float] = field(default_factory=dict)
    exploration: bool = False


@dataclass(frozen=True, slots=True)
class TimelinePage:
    """Posts in order, best first. Iterating gives `RankedPost`s.

    Attributes:
        post_ids: The posts.
        scores: Their scores, parallel to post_ids.
        ranker: What ordered them.
        model_version: The model that scored them; empty for the heuristic.
        cache: Where the list that the page was cut from came from.
        degraded_reason: Set when the heuristic stood in for the model; a cold user's is not degraded.
        next_page_token: Names the page after this one; empty on the last.
        explanations: With `explain`, parallel to post_ids; empty also where the model that ranked the list
            is no longer on the server.
        dropped_posts: Of `explain_post_ids`, those that are not in the timeline, and why.
    """

    post_ids: tuple[int, ...]
    scores: tuple[float, ...]
    ranker: Ranker
    model_version: str = ""
    cache: CacheStatus = CacheStatus.BYPASS
    degraded_reason: DegradedReason | None = None
    next_page_token: str = ""
    explanations: tuple[Explanation, ...] = ()
    dropped_posts: Mapping[int, DropReason] = field(default_factory=dict)

    @property
    def posts(self) -> tuple[RankedPost, ...]:
        """The posts with their scores; made anew on each access."""
        return tuple(self)

    def at(self, positions: Sequence[int]) -> "TimelinePage":
        """The page with the posts at these positions alone."""
        return replace(
            self,
            post_ids=tuple(self.post_ids[position] for position in positions),
            scores=tuple(self.scores[position] for position in positions),
            explanations=tuple(self.explanations[position] for position in positions)
            if self.explanations
            else (),
        )

    def __iter__(self) -> Iterator[RankedPost]:
        return map(RankedPost, self.post_ids, self.scores)

    def __len__(self) -> int:
        return len(self.post_ids)
