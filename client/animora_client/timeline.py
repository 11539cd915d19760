"""The page of a timeline that GetTimeline returns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from animora_client.ranking import CacheStatus, DegradedReason, DropReason, RankedPost, Ranker


@dataclass(frozen=True, slots=True)
class Explanation:
    """The parts of a post's score.

    Attributes:
        terms: Terms that add up to the model's logit, or to the heuristic's value.
        reranking_terms: Terms that add up to the score, if the server re-ranks timelines; else empty.
        exploration: Whether the post is in a position reserved for posts with few interactions.
    """

    terms: Mapping[str, float]
    reranking_terms: Mapping[str, float] = field(default_factory=dict)
    exploration: bool = False


@dataclass(frozen=True, slots=True)
class TimelinePage:
    """One page of a timeline, best post first. Iteration yields `RankedPost`s.

    Attributes:
        post_ids: The posts, best first.
        scores: The scores, parallel to post_ids.
        ranker: What ranked the posts.
        model_version: The model that scored the posts; empty for the heuristic.
        cache: The source of the timeline.
        degraded_reason: Set if the heuristic replaced the model; a cold user's timeline is not degraded.
        next_page_token: The token of the next page; empty on the last page.
        explanations: With `explain`, parallel to post_ids; empty if the server no longer has the model that
            ranked the timeline.
        dropped_posts: The `explain_post_ids` that are not in the timeline, with the reason.
        arm: The arm of the server's experiments, the same on each page; empty without experiments.
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
    arm: str = ""

    @property
    def posts(self) -> tuple[RankedPost, ...]:
        """The posts with their scores; a new tuple on each access."""
        return tuple(self)

    def at(self, positions: Sequence[int]) -> "TimelinePage":
        """The page reduced to the posts at these positions."""
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
